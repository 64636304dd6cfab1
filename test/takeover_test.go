//go:build unix

package test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/pgbouncer"
	"github.com/bootlock/bootlock/test/pgtest"
	"github.com/bootlock/bootlock/test/relay"
	"github.com/bootlock/bootlock/test/sqltest"
)

// envTakeovers is how many takeovers [TestTakeovers] tries, in all; there are a
// few of each kind without it. 10000 take about half an hour.
const envTakeovers = "BOOTLOCK_TAKEOVERS"

// faults are the ways in which a holder loses its lease without knowing.
var faults = []string{"terminate", "freeze", "reset", "silence"}

// A holder loses its lease and goes on: four writers of its process begin
// transactions, write and commit, and look at nothing, whatever becomes of the
// lease and of its context. The next holder takes a snapshot when it begins. A row
// of the old one that this snapshot does not have, and that is there in the end,
// is a stale commit. No clock takes part.
func TestTakeovers(t *testing.T) {
	t.Parallel()
	rounds, err := strconv.Atoi(os.Getenv(envTakeovers))
	long := err == nil
	for _, fenced := range []bool{true, false} {
		name, ways, kinds, each := "fenced", []string{"direct", "PgBouncer"}, faults, 2
		switch {
		case !fenced:
			name, ways, kinds, each = "control", ways[:1], faults[:1], 5
		case long:
			each = rounds / len(faults) / 4
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var all tally
			t.Run("courses", func(t *testing.T) { runCourses(t, &all, ways, kinds, each, fenced) })
			takeovers, stale := int(all.takeovers.Load()), int(all.stale.Load())
			t.Logf("stale commits in %d of %d takeovers", stale, takeovers)
			switch {
			case fenced && stale > 0:
				t.Errorf("got stale commits in %d of %d takeovers; want none", stale, takeovers)
			case !fenced && stale*2 < takeovers:
				t.Errorf("control: got stale commits in %d of %d takeovers; want them in most, or the test shows nothing", stale, takeovers)
			}
		})
	}
}

// runCourses tries faults side by side with both drivers.
func runCourses(t *testing.T, all *tally, ways, kinds []string, each int, fenced bool) {
	t.Helper()
	server := pgtest.Shared(t)
	for _, way := range ways {
		through := func(dsn string) string { return dsn }
		if way == "PgBouncer" {
			through = pgbouncer.New(t, server, "transaction", pgbouncer.Plenty).DSN
		}
		for _, driver := range drivers {
			t.Run(way+" "+driver, func(t *testing.T) {
				t.Parallel()
				l := newCourse(t, server, through, driver, fenced)
				for i := range each * len(kinds) {
					l.takeover(t, i, kinds[i%len(kinds)])
				}
				l.old.finish(t)
				l.count(t, all)
			})
		}
	}
}

// course is one old holder, in a process of its own, and those who take over from it.
type course struct {
	db      testDB
	network *relay.Relay // of the old holder's lock
	writes  *relay.Relay // of its writers
	next    *sql.DB
	old     *program
}

func newCourse(t *testing.T, server *pgtest.Server, through func(dsn string) string, driver string, fenced bool) *course {
	t.Helper()
	// Not newTestDB, which waits for all connections to end: the pooler keeps some.
	db := testDB{dsn: server.NewDB(t)}
	db.admin = sqltest.Open(t, "pgx", db.dsn)
	sqltest.Exec(t, db.admin, `CREATE TABLE writes (round int, xid xid8 DEFAULT pg_current_xact_id());
CREATE TABLE begins (round int, seen pg_snapshot DEFAULT pg_current_snapshot())`)
	dsn := through(db.dsn)
	hold, write := newNetwork(t, dsn), newNetwork(t, dsn)
	hold.DropCancels()
	write.DropCancels()
	return &course{
		db: db, network: hold.Relay, writes: write.Relay,
		next: locktest.Pool(t, otherThan(driver), dsn),
		old:  start(t, "write on", "DRIVER="+driver, "DSN="+hold.dsn, "WRITE="+write.dsn, fmt.Sprintf("FENCED=%t", fenced)),
	}
}

// takeover is one round. Of each fault, every other one finds the next holder waiting
// already; and in every other, faults of the network are those of the writers too.
func (l *course) takeover(t *testing.T, round int, fault string) {
	t.Helper()
	l.old.say(t, "hold "+strconv.Itoa(round))
	l.old.hear(t, "held")
	// On a busy machine the lease may be over already, for want of a heartbeat.
	holders := locktest.Holders(t, l.db.admin, leaseKey)
	l.old.say(t, "more")
	l.old.hear(t, "more")

	networks := []*relay.Relay{l.network}
	if round/len(faults)%2 == 0 {
		networks = append(networks, l.writes)
	}
	begun, end := make(chan struct{}), make(chan struct{})
	takeOver := func() <-chan error {
		return await.Go(func() error {
			return advisorylock.Hold(t.Context(), l.next, leaseKey, func(ctx context.Context) error {
				_, err := l.next.ExecContext(ctx, fmt.Sprintf("INSERT INTO begins (round) VALUES (%d)", round))
				close(begun)
				<-end
				return err
			})
		})
	}
	var returned <-chan error
	waiting := (round+round/len(faults))%2 == 0
	if waiting {
		returned = takeOver()
		l.blocks(t)
	}
	l.strike(t, fault, holders, networks)
	if !waiting {
		returned = takeOver()
	}
	select {
	case <-begun:
	case err := <-returned:
		t.Fatalf("round %d, %s: the next Hold returned %v", round, fault, err)
	case <-time.After(await.Limit):
		t.Fatalf("round %d, %s: nobody takes over; the server has\n%s", round, fault, sqltest.Ask[string](t, l.db.admin,
			`SELECT string_agg(concat_ws(' ', a.pid, a.state, now() - a.state_change, wait_event, (SELECT string_agg(concat_ws(' ', classid, objid, mode, granted), ', ') FROM pg_locks k WHERE k.pid = a.pid AND locktype = 'advisory'), a.query), E'\n')
FROM pg_stat_activity a WHERE datname = current_database()`))
	}
	l.heal(t, fault, networks)
	l.old.say(t, "more")
	l.old.hear(t, "more")
	close(end)
	await.NoError(t, fmt.Sprintf("round %d, %s: the next Hold", round, fault), returned)
	l.old.say(t, "stop")
	l.old.hear(t, "stopped")
}

// blocks waits until the next one blocks; behind a pooler it may ask instead.
func (l *course) blocks(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if sqltest.Ask[int](t, l.db.admin, advisoryLocks+" AND NOT l.granted") > 0 {
			return
		}
	}
}

func (l *course) strike(t *testing.T, fault string, holders []advisorylock.Session, networks []*relay.Relay) {
	t.Helper()
	switch fault {
	case "terminate":
		for _, s := range holders { // but for those that are gone already
			sqltest.Ask[int](t, l.db.admin, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid = $1", s.PID)
		}
	case "freeze":
		l.old.signal(t, syscall.SIGSTOP)
	case "reset", "silence":
		for _, n := range networks {
			n.Silence(relay.Lost)
			if fault == "reset" {
				n.Speak()
			}
		}
	}
}

func (l *course) heal(t *testing.T, fault string, networks []*relay.Relay) {
	t.Helper()
	switch fault {
	case "freeze":
		l.old.signal(t, syscall.SIGCONT)
	case "silence":
		for _, n := range networks {
			n.Speak()
		}
	}
}

// count counts the rounds of a course, and those with stale commits.
func (l *course) count(t *testing.T, all *tally) {
	t.Helper()
	began := sqltest.Ask[int64](t, l.db.admin, "SELECT count(*) FROM begins")
	all.takeovers.Add(began)
	all.stale.Add(sqltest.Ask[int64](t, l.db.admin, `SELECT count(*) FROM begins b WHERE EXISTS (
    SELECT FROM writes w WHERE w.round = b.round AND NOT pg_visible_in_snapshot(w.xid, b.seen))`))
	wrote := sqltest.Ask[int64](t, l.db.admin, "SELECT count(DISTINCT round) FROM writes")
	if wrote*2 < began { // a busy machine may end a lease before anything is written
		t.Errorf("got writes in %d of %d rounds; want them in most", wrote, began)
	}
}

// tally is what became of the takeovers of all courses.
type tally struct{ takeovers, stale atomic.Int64 }

func init() { children["write on"] = writeOn }

// writeOn takes the lock when it is told to, and writes for as long as it is not
// told to stop.
func writeOn(hold *sql.DB) error {
	write, err := sql.Open(os.Getenv("DRIVER"), os.Getenv("WRITE"))
	if err != nil {
		return err
	}
	defer write.Close()
	write.SetMaxIdleConns(4)
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		round, ok := strings.CutPrefix(commands.Text(), "hold ")
		if !ok {
			return fmt.Errorf("told %q; want hold", commands.Text())
		}
		fmt.Println("stopped:", holdOn(hold, write, round, commands))
	}
	return commands.Err()
}

// holdOn is one round. Nobody waits for it when the test is gone.
func holdOn(hold, write *sql.DB, round string, commands *bufio.Scanner) error {
	ctx, cancel := context.WithTimeout(context.Background(), await.Limit)
	defer cancel()
	return advisorylock.Locker{TTL: time.Second}.Hold(ctx, hold, leaseKey, func(ctx context.Context) error {
		fmt.Println("held")
		writeUntilTold(ctx, write, round, commands)
		return nil
	})
}

// writeUntilTold has four writers. They do not see the end of ctx.
func writeUntilTold(ctx context.Context, db *sql.DB, round string, commands *bufio.Scanner) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	attempts := atomic.Int64{}
	var writers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() {
			for ctx.Err() == nil {
				_ = writeOnce(ctx, db, round, i)
				attempts.Add(1)
			}
		})
	}
	for commands.Scan() && commands.Text() == "more" {
		for began := attempts.Load(); attempts.Load() < began+12; {
			time.Sleep(time.Millisecond)
		}
		fmt.Println("more")
	}
	cancel()
	writers.Wait()
}

// writeOnce commits a row. Two of the writers ask the server alone whether they are
// late, as another program does; Fence knows it from the holder, if that does.
func writeOnce(ctx context.Context, db *sql.DB, round string, writer int) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		time.Sleep(time.Millisecond)
		return err
	}
	defer tx.Rollback() //nolint:errcheck // it may have been committed
	if os.Getenv("FENCED") == "true" {
		if err := fenced(ctx, tx, writer); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO writes (round) VALUES ("+round+")"); err != nil {
		return err
	}
	return tx.Commit()
}

func fenced(ctx context.Context, tx *sql.Tx, writer int) error {
	if writer%2 == 0 {
		return advisorylock.Fence(ctx, tx)
	}
	return sqltest.AskFence(ctx, ctx, tx)
}
