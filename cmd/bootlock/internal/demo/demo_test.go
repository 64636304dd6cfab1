package demo

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func sideOf(guarded bool, errs ...string) *side {
	s := &side{guarded: guarded}
	r := round{number: 1}
	for _, err := range errs {
		r.outcomes = append(r.outcomes, outcome{Driver: "pgx", Done: time.Millisecond, Err: err})
	}
	s.rounds = []round{r}
	return s
}

func TestVerdict(t *testing.T) {
	for _, test := range []struct {
		name          string
		without, with *side
		want          string
		ok            bool
	}{
		{"as it should be", sideOf(false, "", "duplicate key"), sideOf(true, "", ""), "Without the guard 1 of 2 processes failed, with it none of 2.", true},
		{"the guard failed", sideOf(false, "", "duplicate key"), sideOf(true, "", "duplicate key"), "FAILED: 1 of 2", false},
		{"a process died", sideOf(false, "", "duplicate key"), sideOf(true, "the process died: ", ""), "FAILED: 1 of 2", false},
		{"no race was seen", sideOf(false, "", ""), sideOf(true, "", ""), "Proved nothing", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			text, ok := verdict(test.without, test.with)
			if ok != test.ok || !strings.HasPrefix(text, test.want) {
				t.Errorf("got %q, %v; want %q, %v", text, ok, test.want, test.ok)
			}
		})
	}
}

// lib/pq and pgx word the same error differently; the table counts it once.
func TestErrorsAreCountedOnce(t *testing.T) {
	s := sideOf(false, "",
		`ERROR: duplicate key value violates unique constraint "pg_namespace_nspname_index" (SQLSTATE 23505)`,
		`pq: duplicate key value violates unique constraint "pg_namespace_nspname_index" (23505)`,
		`ERROR: tuple concurrently updated (SQLSTATE XX000)`)
	want := `2 × duplicate key value violates unique constraint "pg_namespace_nspname_index" (23505)` + "\n" +
		"1 × tuple concurrently updated (XX000)"
	if got := s.all().errors(); got != want {
		t.Errorf("got %q; want %q", got, want)
	}
}

// Error texts come from a server, and get into the picture.
func TestPictureIsXML(t *testing.T) {
	var b strings.Builder
	draw(&b, `15 <"&'>`, sideOf(false, `]]> <"&'> --`).worst(), sideOf(true, "").worst())
	decoder := xml.NewDecoder(strings.NewReader(b.String()))
	for {
		_, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%v in %s", err, b.String())
		}
	}
}

func TestMoreRoundsWhileNoRaceIsSeen(t *testing.T) {
	d := &demo{Options: Options{Rounds: 2}}
	for _, test := range []struct {
		name string
		side *side
		want int // the last round
	}{
		{"a race was seen", sideOf(false, "", "duplicate key"), 2},
		{"no race was seen", sideOf(false, "", ""), 2 * moreRounds},
		{"the guarded side", sideOf(true, "", ""), 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := 1
			for d.goesOn(test.side, n) {
				n++
			}
			if n-1 != test.want {
				t.Errorf("got %d rounds; want %d", n-1, test.want)
			}
		})
	}
}
