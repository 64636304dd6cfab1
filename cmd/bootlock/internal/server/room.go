package server

import (
	"context"
	"time"

	"github.com/bootlock/bootlock/internal/sqlstate"
)

const (
	// roomTime bounds the wait for room: a server that is full for another reason
	// than a fleet that starts must not hold the lock up for long.
	roomTime  = 10 * time.Second
	roomPause = 150 * time.Millisecond

	// arrival is the time in which a fleet that was started together comes.
	arrival = time.Second
)

// What roomSQL answers.
const (
	noRoom = iota
	someRoom
	plenty
)

// roomSQL asks whether four connections more could be had, or a fifth of the
// limit where that is less: of the server, the role and the database. It is plenty
// if 32 could be had, or no other bootlock is there. Without rights a role sees of
// others' sessions that they exist, which is all that is counted here.
const roomSQL = `
SELECT CASE
  WHEN NOT pg_catalog.bool_and(l.total OPERATOR(pg_catalog.<) 0 OR l.total OPERATOR(pg_catalog.-) l.used OPERATOR(pg_catalog.>=) LEAST(4, l.total OPERATOR(pg_catalog./) 5)) THEN 0
  WHEN pg_catalog.bool_and(l.total OPERATOR(pg_catalog.<) 0 OR l.total OPERATOR(pg_catalog.-) l.used OPERATOR(pg_catalog.>=) 32) THEN 2
  WHEN pg_catalog.min(s.fleet) OPERATOR(pg_catalog.<=) 2 THEN 2
  ELSE 1 END
FROM pg_catalog.pg_roles r
JOIN pg_catalog.pg_database d ON r.rolname OPERATOR(pg_catalog.=) SESSION_USER AND d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database(),
LATERAL (SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE a.usesysid OPERATOR(pg_catalog.=) r.oid), pg_catalog.count(*) FILTER (WHERE a.datid OPERATOR(pg_catalog.=) d.oid),
    pg_catalog.count(*) FILTER (WHERE a.application_name OPERATOR(pg_catalog.~~) 'bootlock %')
  FROM pg_catalog.pg_stat_get_activity(NULL) a WHERE a.datid IS NOT NULL AND a.usesysid IS NOT NULL) s (everybody, own, here, fleet),
LATERAL (VALUES
  (pg_catalog.current_setting('max_connections')::pg_catalog.int8 OPERATOR(pg_catalog.-) CASE WHEN r.rolsuper THEN 0
     ELSE pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int8 OPERATOR(pg_catalog.+) COALESCE(pg_catalog.current_setting('reserved_connections', true), '0')::pg_catalog.int8 END, s.everybody),
  (CASE WHEN r.rolsuper THEN -1 ELSE r.rolconnlimit END, s.own),
  (CASE WHEN r.rolsuper THEN -1 ELSE d.datconnlimit END, s.here)) l (total, used)`

// AwaitRoom waits, for a short time, until the server has connections to spare
// for the command that is about to run: those who come at the same moment have
// them all for an instant. They go when they see that the lock is held. Where not
// many are left, a second look tells whether a fleet is only just coming.
//
// An answer that cannot be had is no reason not to run the command.
func (s *Server) AwaitRoom(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, roomTime)
	defer cancel()
	for seen := 0; ; {
		room := noRoom
		err := s.DB.QueryRowContext(ctx, roomSQL).Scan(&room)
		if room == someRoom {
			seen++
		} else {
			seen = 0
		}
		settled := room == plenty || seen == 2 || seen == 1 && time.Since(s.opened) > arrival
		if ctx.Err() != nil || settled || err != nil && sqlstate.Of(err) != "53300" {
			return
		}
		select {
		case <-time.After(roomPause):
		case <-ctx.Done():
		}
	}
}
