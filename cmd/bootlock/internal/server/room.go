package server

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/bootlock/bootlock/internal/room"
)

// roomTime bounds the wait for room: a server that is full for another reason
// than a fleet that starts must not hold the lock up for long.
const roomTime = 10 * time.Second

// roomSQL asks how many connections have to be had at once: none if 32 more could
// be had, or no other bootlock is there, else a third of the limit and one, but eight
// at most: of the limits of the server, the role and the database the least. Those who
// wait leave the server when less than a quarter is left. Without rights a role sees
// of others' sessions that they exist, which is all that is counted here.
const roomSQL = `
SELECT CASE
  WHEN pg_catalog.bool_and(l.total OPERATOR(pg_catalog.<) 0 OR l.total OPERATOR(pg_catalog.-) l.used OPERATOR(pg_catalog.>=) 32) THEN 0
  WHEN pg_catalog.min(s.fleet) OPERATOR(pg_catalog.<=) 2 THEN 0
  ELSE LEAST(8, pg_catalog.min(l.total) FILTER (WHERE l.total OPERATOR(pg_catalog.>=) 0) OPERATOR(pg_catalog./) 3 OPERATOR(pg_catalog.+) 1) END
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

// AwaitRoom sees to it that there are connections to spare for the command that is
// about to run, where those who wait could have them all. It takes each as soon as
// one is free, keeps them from the others until it has enough, and gives them back
// just before the command wants them. To look and find enough of them free is not
// enough: by the time the command comes they are taken again.
//
// An answer that cannot be had is no reason not to run the command.
func (s *Server) AwaitRoom(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, roomTime)
	defer cancel()
	var need int
	err := room.Patiently(ctx, room.Lead(), func(ctx context.Context) error { return s.DB.QueryRowContext(ctx, roomSQL).Scan(&need) })
	if err != nil {
		return
	}
	spare := make(chan *pgconn.PgConn, need)
	var taken sync.WaitGroup
	for range need {
		taken.Go(func() {
			_ = room.Patiently(ctx, room.Lead(), func(ctx context.Context) error {
				conn, err := pgconn.ConnectConfig(ctx, &s.config.Copy().Config)
				if err == nil {
					spare <- conn
				}
				return err
			})
		})
	}
	taken.Wait()
	close(spare)
	var back sync.WaitGroup
	for conn := range spare {
		back.Go(func() { giveBack(conn) })
	}
	back.Wait()
}

// giveBack returns when the server has closed the connection: until then it counts.
func giveBack(conn *pgconn.PgConn) {
	c, err := conn.Hijack()
	if err != nil {
		return
	}
	defer c.Conn.Close()
	_ = c.Conn.SetDeadline(time.Now().Add(time.Second))
	c.Frontend.Send(&pgproto3.Terminate{})
	if c.Frontend.Flush() == nil {
		_, _ = io.Copy(io.Discard, c.Conn)
	}
}
