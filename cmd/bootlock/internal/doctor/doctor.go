// Package doctor finds out, by trying, whether the locks of package advisorylock
// exclude on a given database, through whatever stands in between: a server that
// only looks like PostgreSQL, a pooler, a standby, a role without rights.
//
// [Run] works on two pools, which stand for two processes, and returns a
// [Report]. It leaves nothing behind; one of its proofs lets the server end an
// idle transaction, which writes a line to the server's log.
package doctor

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/bootlock/bootlock/advisorylock"
)

// Level is how good a finding is.
type Level string

// The levels. A Warn limits what works here; a Fail means that the locks do not
// protect.
const (
	OK   Level = "ok"
	Warn Level = "warn"
	Fail Level = "fail"
)

// Finding is one thing that was found out.
type Finding struct {
	Name   string `json:"name"` // such as "exclusive lock"; the same in every release
	Level  Level  `json:"level"`
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"` // what to do about it, if it is not OK
}

// Report is what Run found out.
type Report struct {
	// Protects is false if any finding is a Fail: two processes could be inside
	// the lock at once, or never get in.
	Protects bool      `json:"protects"`
	Findings []Finding `json:"findings"`
}

const (
	// stepTime bounds every single proof, for a pooler that makes them wait for ever.
	stepTime = 10 * time.Second

	// waitTime is for how long a second session has to be seen to wait.
	waitTime = 500 * time.Millisecond
)

// Run examines the database that both pools lead to. They must be two, opened with
// the same DSN as two processes would, prepare nothing, and have been seen to
// connect. The error is that of ctx; all else is a finding.
func Run(ctx context.Context, a, b *sql.DB) (*Report, error) {
	d := &doctor{a: a, b: b}
	d.examine(ctx)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("doctor: %w", context.Cause(ctx))
	}
	report := &Report{Protects: true, Findings: d.findings}
	for _, f := range d.findings {
		report.Protects = report.Protects && f.Level != Fail
	}
	return report, nil
}

type doctor struct {
	a, b     *sql.DB
	findings []Finding
}

func (d *doctor) add(level Level, name, text, advice string) {
	if level == OK {
		advice = ""
	}
	d.findings = append(d.findings, Finding{Name: name, Level: level, Text: text, Advice: advice})
}

func (d *doctor) examine(ctx context.Context) {
	if err := d.transactions(ctx); err != nil {
		d.add(Fail, "transactions", "a transaction cannot be begun: "+err.Error(),
			"in PgBouncer, set pool_mode=transaction or pool_mode=session for this database")
		return
	}
	d.server(ctx)
	standby := d.standby(ctx)
	d.pooler(ctx)
	if !standby {
		d.locks(ctx)
	}
	d.role(ctx)
	d.room(ctx)
}

// readCommitted works on a standby too, whatever the default is.
var readCommitted = &sql.TxOptions{Isolation: sql.LevelReadCommitted}

func (d *doctor) transactions(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	tx, err := d.a.BeginTx(ctx, readCommitted)
	if err != nil {
		return err
	}
	return tx.Rollback()
}

func (d *doctor) locks(ctx context.Context) {
	const advice = "do not rely on advisory locks here: let one process create the schema and migrate, such as a deploy job"
	protects := true
	for _, p := range []struct {
		name, good string
		try        func(ctx context.Context, key advisorylock.Key) error
	}{
		{"exclusive lock", "a second session was kept out", d.excludes},
		{"shared lock", "sharers get in together, and keep an exclusive one out, and the other way round", d.sharing},
		{"wait", "a second session waited, and was let in when the first had committed", d.wait},
		{"release", "commit and rollback free the lock", d.release},
		{"settings of a transaction", "SET LOCAL is accepted in front of the lock, and ends with the transaction", d.setLocal},
	} {
		if err := attempt(ctx, p.try); err != nil {
			protects = false
			d.add(Fail, p.name, err.Error(), advice)
		} else {
			d.add(OK, p.name, p.good, "")
		}
	}
	if !protects {
		return // what is not locked cannot be seen to become free
	}
	if err := attempt(ctx, d.idleLimit); err != nil {
		d.add(Warn, "dead holder", err.Error(),
			"a process that is frozen or cut off keeps its locks until TCP gives its connection up: set tcp_keepalives_idle on the server")
	} else {
		d.add(OK, "dead holder", "the server ended a silent holder's transaction and gave its lock to the next", "")
	}
}

// attempt tries a proof with a key that nobody else uses.
func attempt(ctx context.Context, try func(context.Context, advisorylock.Key) error) error {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	return try(ctx, advisorylock.Key(rand.Uint64())) //nolint:gosec // not a secret
}

func nothing(context.Context, *sql.Tx) error { return nil }

// excludes proves that while a has the lock, b does not get it.
func (d *doctor) excludes(ctx context.Context, key advisorylock.Key) error {
	return advisorylock.WithXactLock(ctx, d.a, key, func(ctx context.Context, _ *sql.Tx) error { return d.keptOut(ctx, key) })
}

func (d *doctor) keptOut(ctx context.Context, key advisorylock.Key) error {
	err := advisorylock.TryWithXactLock(ctx, d.b, key, nothing)
	switch {
	case err == nil:
		return errTogether
	case errors.Is(err, advisorylock.ErrNotAcquired):
		return nil
	}
	return fmt.Errorf("the second session could not ask for the lock: %w", err)
}

var errTogether = errors.New("two sessions had the lock at the same time: this server, or what stands in front of it, answers the lock functions without locking, or the two connections reached different servers")

// sharing proves what the fence of a lock relies on.
func (d *doctor) sharing(ctx context.Context, key advisorylock.Key) error {
	nobody := func(context.Context) error { return nil }
	if got, err := share(ctx, d.a, key, func(ctx context.Context) error {
		if err := d.keptOut(ctx, key); err != nil {
			return err
		}
		got, err := share(ctx, d.b, key, nobody)
		if err == nil && !got {
			err = errors.New("two sharers kept each other out")
		}
		return err
	}); err != nil || !got {
		return cmp.Or(err, errors.New("a lock that is free could not be shared"))
	}
	return advisorylock.WithXactLock(ctx, d.a, key, func(ctx context.Context, _ *sql.Tx) error {
		got, err := share(ctx, d.b, key, nobody)
		if got {
			err = errTogether
		}
		return err
	})
}

// share calls fn while it shares the lock, and reports whether it got it.
func share(ctx context.Context, db *sql.DB, key advisorylock.Key, fn func(context.Context) error) (got bool, err error) {
	tx, err := db.BeginTx(ctx, readCommitted)
	if err != nil {
		return false, err
	}
	defer tx.Rollback() //nolint:errcheck // it frees the lock
	err = tx.QueryRowContext(ctx, fmt.Sprintf("SELECT pg_catalog.pg_try_advisory_xact_lock_shared((%d)::pg_catalog.int8)", key)).Scan(&got)
	if err != nil || !got {
		return false, err
	}
	return true, fn(ctx)
}

// wait proves that b, which blocks, gets in after a has left and not before.
func (d *doctor) wait(ctx context.Context, key advisorylock.Key) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	second := make(chan error, 1)
	err := advisorylock.WithXactLock(ctx, d.a, key, func(context.Context, *sql.Tx) error {
		go func() { second <- advisorylock.WithXactLock(ctx, d.b, key, nothing) }()
		select {
		case err := <-second:
			return cmp.Or(err, errTogether)
		case <-time.After(waitTime):
			return nil
		}
	})
	if err != nil {
		return err
	}
	if err := <-second; err != nil {
		return fmt.Errorf("the lock did not become free for the second session when the first had committed: %w", err)
	}
	return nil
}

func (d *doctor) release(ctx context.Context, key advisorylock.Key) error {
	errRollback := errors.New("roll back")
	for how, fn := range map[string]func(context.Context, *sql.Tx) error{
		"COMMIT":   nothing,
		"ROLLBACK": func(context.Context, *sql.Tx) error { return errRollback },
	} {
		if err := advisorylock.WithXactLock(ctx, d.a, key, fn); err != nil && !errors.Is(err, errRollback) {
			return err
		}
		if err := advisorylock.TryWithXactLock(ctx, d.b, key, nothing); err != nil {
			return fmt.Errorf("after %s the lock was not free: %w", how, err)
		}
	}
	return nil
}

// setLocal proves that a setting in front of the lock counts in the transaction
// and not after it.
func (d *doctor) setLocal(ctx context.Context, key advisorylock.Key) error {
	const limit = 98765 * time.Millisecond
	conn, err := d.a.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	tx, err := conn.BeginTx(ctx, readCommitted)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // nothing was changed
	if err := lockWithLimit(ctx, tx, limit, key); err != nil {
		return fmt.Errorf("several statements at once, with SET LOCAL, were refused: %w", err)
	}
	const ask = "SELECT pg_catalog.current_setting('idle_in_transaction_session_timeout')"
	var inside, after string
	if err := tx.QueryRowContext(ctx, ask).Scan(&inside); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	err = conn.QueryRowContext(ctx, ask).Scan(&after)
	switch set := fmt.Sprintf("%dms", limit.Milliseconds()); {
	case err != nil:
		return err
	case inside != set:
		return errors.New("SET LOCAL idle_in_transaction_session_timeout had no effect")
	case after == set:
		return errors.New("SET LOCAL outlived its transaction")
	}
	return nil
}

// lockWithLimit takes a lock as a lease does: with a limit in front of it.
func lockWithLimit(ctx context.Context, tx *sql.Tx, limit time.Duration, key advisorylock.Key) error {
	_, err := tx.ExecContext(ctx, fmt.Sprintf(
		"SET LOCAL idle_in_transaction_session_timeout = '%dms'; SELECT pg_catalog.pg_advisory_xact_lock((%d)::pg_catalog.int8)", limit.Milliseconds(), key))
	return err
}

// idleLimit proves that the server ends a holder that has gone silent.
func (d *doctor) idleLimit(ctx context.Context, key advisorylock.Key) error {
	tx, err := d.a.BeginTx(ctx, readCommitted)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // it is broken on purpose
	const limit = 500 * time.Millisecond
	sent := time.Now()
	if err := lockWithLimit(ctx, tx, limit, key); err != nil {
		return err
	}
	err = advisorylock.TryWithXactLock(ctx, d.b, key, nothing)
	switch {
	case err == nil && time.Since(sent) < limit:
		return errors.New("a lock taken after SET LOCAL did not keep a second session out")
	case err == nil || !errors.Is(err, advisorylock.ErrNotAcquired):
		return err
	}
	patient, cancel := context.WithTimeout(ctx, stepTime/2)
	defer cancel()
	if err := advisorylock.WithXactLock(patient, d.b, key, nothing); err != nil {
		return fmt.Errorf("idle_in_transaction_session_timeout did not end a silent holder: %w", err)
	}
	return nil
}
