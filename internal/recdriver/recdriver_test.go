package recdriver

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"
)

// The tests of the library see most of what may be wrong here. These are for what they
// take for granted: that the fake is like PostgreSQL and its drivers, and that a call
// that a hook fails leaves nothing behind.

// pool opens a pool on d and checks at the end that it leaves no connection.
func pool(t *testing.T, d *Driver) *sql.DB {
	t.Helper()
	db := d.OpenDB()
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if n := d.Open(); n != 0 {
			t.Errorf("%d connections left open", n)
		}
	})
	return db
}

// transaction is one transaction with one statement.
func transaction(db *sql.DB) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	if _, err := tx.Exec("INSERT"); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// The library sends no arguments and prepares nothing, and tests rely on seeing it.
func TestProtocolIsSeen(t *testing.T) {
	d := New()
	db := pool(t, d)
	if _, err := db.Exec("x", 1); err != nil {
		t.Fatal(err)
	}
	rows, err := db.Query("x", 1)
	if err != nil {
		t.Fatal(err)
	}
	rows.Close()
	if _, err := db.Prepare("x"); err == nil {
		t.Error("the fake server prepared a statement")
	}
	if got, want := d.String(), "connect > exec args > release > take > query args > release > take > prepare! > release"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// What a hook fails does not reach the driver behind, but with After it does: a COMMIT
// whose answer is lost is a COMMIT. No transaction and no connection is forgotten there.
func TestFailedHooksCleanUpBehind(t *testing.T) {
	boom := errors.New("boom")
	for _, test := range []struct {
		kind Kind
		err  error
		want string
	}{
		{Connect, boom, ""},
		{Connect, After(boom), "connect > close"},
		{Begin, boom, "connect > release > close"},
		{Begin, After(boom), "connect > begin > rollback > release > close"},
		{Exec, boom, "connect > begin > rollback > release > close"},
		{Exec, After(boom), "connect > begin > exec > rollback > release > close"},
		{Commit, boom, "connect > begin > exec > rollback > release > close"},
		{Commit, After(boom), "connect > begin > exec > commit > release > close"},
		{Commit, driver.ErrBadConn, "connect > begin > exec > rollback > close"},
		{Close, boom, "connect > begin > exec > commit > release > close"},
	} {
		inner := New()
		d := wrap(inner)
		d.OnCall(FailOn(test.kind, "", 0, test.err))
		db := d.OpenDB()
		if err := errors.Join(transaction(db), db.Close()); err == nil {
			t.Errorf("%s: got no error", test.kind)
		}
		if got := inner.String(); got != test.want {
			t.Errorf("%s, %v:\ngot  %s\nwant %s", test.kind, test.err, got, test.want)
		}
		if d.Open() != 0 || inner.Open() != 0 {
			t.Errorf("%s: %d and %d connections left open", test.kind, d.Open(), inner.Open())
		}
	}
}

// An error of the server aborts the transaction, whoever made it up.
func TestAbortedTransaction(t *testing.T) {
	clash := SQLError{Code: "23505", Constraint: "c"}
	for name, setUp := range map[string]func(d *Driver){
		"answer": func(d *Driver) { d.OnExec(func(Call) (int64, error) { return 0, clash }) },
		"hook":   func(d *Driver) { d.OnCall(FailOn(Exec, "", 1, clash)) },
	} {
		d := New()
		db := pool(t, d)
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		setUp(d)
		if _, err := tx.Exec("first"); !errors.Is(err, clash) {
			t.Errorf("%s: error %v", name, err)
		}
		d.OnExec(nil)
		if _, err := tx.Exec("second"); !errors.Is(err, errAborted) {
			t.Errorf("%s: error %v; want 25P02", name, err)
		}
		if err := tx.Commit(); err == nil {
			t.Errorf("%s: commit of an aborted transaction succeeded", name)
		}
		if err := transaction(db); err != nil {
			t.Errorf("%s: next transaction: %v", name, err)
		}
	}
}
