package scale

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/bench/lab"
	"github.com/bootlock/bootlock/internal/recdriver"
)

// MeasureCosts measures what the model needs to know, each thing so often, in CPU time:
// what else goes on meanwhile does not matter much.
func MeasureCosts(ctx context.Context, l *lab.Lab, often int) (Costs, error) {
	base, err := l.Database(ctx)
	if err != nil {
		return Costs{}, err
	}
	defer base.Drop()
	pooled, err := l.Pooled(ctx, 4, "pgx", base.DSN)
	if err != nil {
		return Costs{}, err
	}
	db, err := lab.Pool("pgx", base.DSN, 1)
	if err != nil {
		return Costs{}, err
	}
	defer db.Close()
	m := &measuring{ctx: ctx, lab: l, often: often, base: base, db: db}
	if m.meter, err = newMeter(ctx, db); err != nil {
		return Costs{}, err
	}
	var c Costs
	c.Connect = m.connections(base.DSN)
	c.Refused = m.refused()
	c.Trip = m.statement(db, "SELECT 1")
	m.exec("CREATE TABLE change (n int)")
	c.Change = m.statement(db, "INSERT INTO change SELECT 1 FROM pg_sleep(0)")
	c.PoolerConnect = m.connections(pooled)
	c.Trip.Pooler = m.pooledTrip(pooled)
	c.PoolerConnect = c.PoolerConnect.less(Cost{Server: c.Trip.Server, Pooler: c.Trip.Pooler, Client: c.Trip.Client})
	c.Connect = c.Connect.less(c.Trip)
	c.Change.Pooler = c.Trip.Pooler
	m.locks(&c)
	return c, m.err
}

// measuring is under way until an error ends it.
type measuring struct {
	ctx   context.Context
	lab   *lab.Lab
	often int
	base  lab.Database
	db    *sql.DB // of one connection
	meter *meter
	err   error
}

// each is what do costs, of so many times.
func (m *measuring) each(often int, do func() error) (c Cost) {
	if m.err != nil {
		return c
	}
	before, err := m.meter.read()
	for range often {
		if err == nil {
			err = do()
		}
	}
	after, failed := m.meter.read()
	m.err = errors.Join(err, failed)
	return after.less(before).by(often)
}

func (m *measuring) exec(statement string) {
	if m.err == nil {
		_, m.err = m.db.ExecContext(m.ctx, statement)
	}
}

func (m *measuring) statement(db *sql.DB, statement string) Cost {
	return m.each(20*m.often, func() error {
		_, err := db.ExecContext(m.ctx, statement)
		return err
	})
}

// connections is what a connection costs, with a statement on it.
func (m *measuring) connections(dsn string) Cost {
	return m.each(m.often, func() error {
		db, err := sql.Open("pgx", dsn)
		if err != nil {
			return err
		}
		_, err = db.ExecContext(m.ctx, "SELECT 1")
		return errors.Join(err, db.Close())
	})
}

// refused is what it costs to be told that there is no connection left.
func (m *measuring) refused() (c Cost) {
	if m.err != nil {
		return c
	}
	dsn, err := m.lab.Limited(m.ctx, 1, m.base.DSN, m.base.Name)
	if err != nil {
		m.err = err
		return c
	}
	only, err := lab.Pool("pgx", dsn, 1)
	if err == nil {
		defer only.Close()
		err = only.PingContext(m.ctx)
	}
	if m.err = err; err != nil {
		return c
	}
	return m.each(m.often, func() error {
		db, err := sql.Open("pgx", dsn)
		if err != nil {
			return err
		}
		defer db.Close()
		if db.PingContext(m.ctx) == nil {
			return errors.New("scale: a limited role has one connection more than it may have")
		}
		return nil
	})
}

// pooledTrip is what a statement costs the pooler.
func (m *measuring) pooledTrip(dsn string) time.Duration {
	db, err := lab.Pool("pgx", dsn, 1)
	if err != nil {
		m.err = errors.Join(m.err, err)
		return 0
	}
	defer db.Close()
	return m.statement(db, "SELECT 1").Pooler
}

const key = advisorylock.Key(4711)

// locks measures the statements of the library, as it sends them.
func (m *measuring) locks(c *Costs) {
	holder, err := lab.Pool("pgx", m.base.DSN, 2)
	if err != nil || m.err != nil {
		m.err = errors.Join(m.err, err)
		return
	}
	defer holder.Close()
	c.Lease = m.each(5*m.often, func() error {
		return advisorylock.Hold(m.ctx, holder, key, func(context.Context) error { return nil })
	}).less(c.Trip).less(c.Trip)
	c.Lease.Pooler = c.Trip.Pooler
	blind, looking := m.waiterStatements(holder)
	if m.err != nil {
		return
	}
	m.err = advisorylock.Hold(m.ctx, holder, key, func(context.Context) error {
		c.Burst = m.inVain(blind, *c)
		c.Burst.Pooler = c.Trip.Pooler
		few := m.inVain(looking, *c).less(c.Burst).Server
		others, err := lab.Pool("pgx", m.base.DSN, sessions)
		if err != nil {
			return err
		}
		defer others.Close()
		if err := fill(m.ctx, others); err != nil {
			return err
		}
		many := m.inVain(looking, *c).less(c.Burst).Server
		c.LookEach = max(0, many-few) / sessions
		c.Look = max(0, few)
		return m.err
	})
}

// sessions is how many more there are when the price of a look at each is found out.
const sessions = 200

// fill opens all connections of a pool.
func fill(ctx context.Context, db *sql.DB) error {
	var conns []*sql.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range sessions {
		c, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		conns = append(conns, c)
	}
	return nil
}

// waiterStatements are what a waiter sends behind a holder: one that blocks blindly, and
// one that looks around first.
func (m *measuring) waiterStatements(holder *sql.DB) (blind, looking string) {
	if m.err != nil {
		return
	}
	d := recdriver.WrapDriver(stdlib.GetDefaultDriver(), m.base.DSN)
	waiter := d.OpenDB()
	defer waiter.Close()
	ctx, cancel := context.WithTimeout(m.ctx, 4*time.Second)
	defer cancel()
	m.err = advisorylock.Hold(m.ctx, holder, key, func(context.Context) error {
		_ = advisorylock.Hold(ctx, waiter, key, func(context.Context) error { return nil })
		return nil
	})
	for _, call := range d.Calls() {
		switch {
		case call.Kind != recdriver.Exec || !strings.Contains(call.Query, "DO $"):
		case strings.Contains(call.Query, "pg_stat_get_activity"):
			looking = call.Query
		default:
			blind = call.Query
		}
	}
	if m.err == nil && (blind == "" || looking == "") {
		m.err = fmt.Errorf("scale: a waiter does not send what it should: %q, %q", blind, looking)
	}
	return blind, looking
}

// A burst is a lock_timeout.
var shortBurst = regexp.MustCompile(`'lock_timeout', '\d+ms'`)

// inVain is what a statement of a waiter costs that blocks for a millisecond instead of
// its burst, without the transaction around it.
func (m *measuring) inVain(statement string, c Costs) Cost {
	statement = shortBurst.ReplaceAllString(statement, "'lock_timeout', '1ms'")
	cost := m.each(m.often, func() error {
		tx, err := m.db.BeginTx(m.ctx, nil)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(m.ctx, statement)
		return errors.Join(err, tx.Rollback())
	})
	return cost.less(c.Trip).less(c.Trip)
}
