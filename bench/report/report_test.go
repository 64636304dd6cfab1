package report

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bootlock/bootlock/bench/handoff"
	"github.com/bootlock/bootlock/bench/herd"
	"github.com/bootlock/bootlock/bench/lab"
	"github.com/bootlock/bootlock/bench/peers"
	"github.com/bootlock/bootlock/bench/scale"
	"github.com/bootlock/bootlock/bench/stats"
	"github.com/bootlock/bootlock/bench/storm"
	"github.com/bootlock/bootlock/bench/uncontended"
	"github.com/bootlock/bootlock/bench/waiting"
)

func verdictOf(t *testing.T, r *Report, what string) goal {
	t.Helper()
	goals := r.goals()
	at := slices.IndexFunc(goals, func(g goal) bool { return strings.Contains(g.what, what) })
	if at < 0 {
		t.Fatalf("no goal is called %q", what)
	}
	return goals[at]
}

// Each goal is met by one result and missed by another.
func TestGoals(t *testing.T) {
	t.Parallel()
	fleet := func(way string, work, ready, winner float64) storm.Row {
		return storm.Row{Way: way, Connections: direct, N: 100, Work: work, Ready: ready, Winner: winner, Rounds: 1}
	}
	pooled := func(way string, ready float64) storm.Row {
		return storm.Row{Way: way, Connections: four, N: 100, Work: 20, Ready: ready, Rounds: 1}
	}
	xact := func(ratio float64) *Report {
		return &Report{uncontended: uncontended.Result{Rows: []uncontended.Row{
			{Group: uncontended.Schema, Task: peers.XactLock, Mode: "pgx", Ratio: ratio},
			{Group: uncontended.Schema, Task: uncontended.Control, Mode: "pgx", Ratio: 1},
		}}}
	}
	trips := func(n float64) *Report {
		return &Report{uncontended: uncontended.Result{Rows: []uncontended.Row{{Group: uncontended.Cold, Task: uncontended.Ensure, Trips: n}}}}
	}
	handedOver := func(p99 float64) *Report {
		return &Report{handoff: handoff.Result{Rows: []handoff.Row{
			{Peer: peers.Hold, Own: true, Waiters: 8, Quantiles: stats.Quantiles{N: 200, P99: p99}},
			{Peer: peers.ByHand, Waiters: 8, Quantiles: stats.Quantiles{N: 200, P99: 1.5}},
		}}}
	}
	stormed := func(rows ...storm.Row) *Report { return &Report{storm: storm.Result{Rows: rows}} }
	herded := func(took float64, connections int) *Report {
		return &Report{herd: herd.Result{Callers: 1000, Rows: []herd.Row{{Peer: peers.XactLock, Took: took, Sequential: 1000, Connections: connections}}}}
	}
	logged := func(lines int) *Report {
		return &Report{waiting: waiting.Result{Rows: []waiting.Row{{Own: true, Errors: lines}, {Errors: 7}}}}
	}
	for _, tt := range []struct {
		what        string
		met, notMet *Report
		alsoNot     *Report
	}{
		{what: "Ensure, the schema is not there", met: trips(4), notMet: trips(5)},
		{what: "by hand, pgx", met: xact(1.05), notMet: xact(1.06)},
		{what: "handoff", met: handedOver(4.5), notMet: handedOver(4.6)},
		{what: "20 ms, UpToDate", met: stormed(fleet(storm.UpToDate, 20, 130, 100)), notMet: stormed(fleet(storm.UpToDate, 20, 131, 100)), alsoNot: stormed(fleet(storm.UpToDate, 20, 0, 0))},
		{
			what: "1 s, Serialize", met: stormed(fleet(storm.Serialize, 1000, 1100, 0), fleet(peers.Blocking, 1000, 1000, 0)),
			notMet: stormed(fleet(storm.Serialize, 1000, 1101, 0), fleet(peers.Blocking, 1000, 1000, 0)),
		},
		{
			what:    "pooled connections",
			met:     stormed(pooled(storm.Serialize, 1), pooled(storm.UpToDate, 1), pooled(peers.Blocking, 0)),
			notMet:  stormed(pooled(storm.Serialize, 1), pooled(storm.UpToDate, 0), pooled(peers.Blocking, 0)),
			alsoNot: stormed(pooled(storm.Serialize, 1), pooled(storm.UpToDate, 1), pooled(peers.Blocking, 1)),
		},
		{what: "callers of one process", met: herded(1100, 1), notMet: herded(1101, 1), alsoNot: herded(1000, 2)},
		{what: "ERROR lines", met: logged(0), notMet: logged(1)},
	} {
		if g := verdictOf(t, tt.met, tt.what); g.verdict() != "met" {
			t.Errorf("%s: got %q for %q; want met", tt.what, g.verdict(), g.got)
		}
		for _, r := range []*Report{tt.notMet, tt.alsoNot} {
			if r == nil {
				continue
			}
			if g := verdictOf(t, r, tt.what); g.verdict() != "**not met**" {
				t.Errorf("%s: got %q for %q; want not met", tt.what, g.verdict(), g.got)
			}
		}
		if g := verdictOf(t, &Report{}, tt.what); g.verdict() != "not measured" {
			t.Errorf("%s, without results: got %q; want not measured", tt.what, g.verdict())
		}
	}
}

// Where something else is better the first screen says so.
func TestBetter(t *testing.T) {
	t.Parallel()
	row := func(peer string, own bool, p50 float64) handoff.Row {
		return handoff.Row{Peer: peer, Own: own, Waiters: 8, Quantiles: stats.Quantiles{N: 100, P50: p50}}
	}
	r := &Report{handoff: handoff.Result{Rows: []handoff.Row{row(peers.Hold, true, 2), row(peers.ByHand, false, 1), row("tern", false, 3)}}}
	got := strings.Join(r.better(), "\n")
	if !strings.Contains(got, "1 of 2 others") || !strings.Contains(got, peers.ByHand+" 1.00 ms") || strings.Contains(got, "tern") {
		t.Errorf("got %q", got)
	}
}

// The model's figure stands beside the one that was measured, with the ratio, and says of
// those who hang that they do.
func TestChecks(t *testing.T) {
	t.Parallel()
	check := func(way string, row scale.Row) scale.Check {
		row.N, row.Work = 100, 20
		return scale.Check{Way: way, Connections: four, Row: row}
	}
	measured := func(way string, ready float64, hung int) storm.Row {
		return storm.Row{Way: way, Connections: four, N: 100, Work: 20, Ready: ready, Hung: hung, Rounds: 1, Limit: 12_000}
	}
	r := &Report{
		storm: storm.Result{Rows: []storm.Row{measured(storm.UpToDate, 2000, 0), measured(peers.ByHand, 0, 100)}},
		scale: scale.Result{Checks: []scale.Check{
			check(storm.UpToDate, scale.Row{All: 3000, Ready: 100}), check(peers.ByHand, scale.Row{Stuck: true}), check(storm.Serialize, scale.Row{All: 1}),
		}},
	}
	got := r.checkTable().RenderMarkdown()
	for _, want := range []string{"2.0 s | 3.0 s | 1.50", "100 of 100 not ready after 12 s | never: 100 hang | –"} {
		if !strings.Contains(got, want) {
			t.Errorf("want %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "Serialize") {
		t.Errorf("what was not measured is checked:\n%s", got)
	}
}

func TestStoreAndLoad(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	machine := lab.Machine{Date: "2026-01-02", Versions: map[string]string{"github.com/lib/pq": "1.2.3", "example.com/unused": "1"}}
	for _, part := range []string{"handoff-2", "handoff-8"} {
		if err := Store(folder, part, machine, handoff.Result{Rows: []handoff.Row{{Peer: part}}}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.handoff.Rows) != 2 || !strings.Contains(r.where(), "2026-01-02") || !strings.Contains(r.where(), "lib/pq 1.2.3") {
		t.Errorf("got %+v, %q", r.handoff, r.where())
	}
	if text, _ := os.ReadFile(filepath.Join(folder, "handoff-2.json")); strings.Contains(string(text), "unused") {
		t.Error("a version is stored that the report does not name")
	}
}

// The document and its pictures are those that the results make. After a change to
// either: go run ./sidebyside -docs-only.
func TestDocumentIsUpToDate(t *testing.T) {
	t.Parallel()
	r, err := Load("../results")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(t.TempDir(), "README.md")
	if err := os.WriteFile(again, readme, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Write(folder, again); err != nil {
		t.Fatal(err)
	}
	if want, err := os.ReadFile(again); err != nil || string(want) != string(readme) {
		t.Errorf("the README has not the line that bench/results makes, %q: %v", r.summary(), err)
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		want, err := os.ReadFile(filepath.Join(folder, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join("../../docs", f.Name()))
		if err != nil || string(got) != string(want) {
			t.Errorf("docs/%s is not what bench/results makes: %v", f.Name(), err)
		}
	}
}
