package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
)

func rewrite(results, docs string) error {
	r, err := load(results)
	if err != nil {
		return err
	}
	return r.write(docs)
}

// write writes the document, and its picture beside it.
func (r *report) write(docs string) error {
	picture, err := r.picture()
	if err != nil {
		return err
	}
	if err := os.WriteFile(strings.TrimSuffix(docs, ".md")+".svg", picture, 0o644); err != nil {
		return err
	}
	return os.WriteFile(docs, []byte(r.document()), 0o644)
}

// document is docs/libraries.md.
func (r *report) document() string {
	sizes := r.sizes()
	most := slices.Max(sizes)
	var b strings.Builder
	fmt.Fprintf(&b, `# Migration libraries, raced

This page is written by `+"`go run ./race` in [examples](../examples), from [its results](../examples/race/results.json)"+`.

In each round %s separate processes start at the same moment on a fresh database: PostgreSQL %s, %s, %d CPUs, loopback%s. Each library has three ordinary migrations; River has its own. [examples](../examples) shows each library as its README does, and the line that puts it under the guard.

![For each library, the starts in which a process failed, without the guard and with it, and the time until all are ready](libraries.svg)

## What each library needs

Each library is called through its Go API as the program starts: for ent that is its auto-migration, for River rivermigrate. goose is raced as a Provider without a locker here, and with each of its two lockers further down.

%s

## Who loses the race

Rounds with a failure, of all rounds, for N = %s processes. A round counts as failed if any process returned an error, hung, returned nil while a table was missing, or left a dirty version or an invalid index behind.

%s

- **%s**: without any guard, in the schema public.
- **%s**: the same in a schema of its own, after CREATE SCHEMA IF NOT EXISTS.
- **%s**, **%s**, **%s**: `+"`schemaguard.Ensure`, `schemaguard.Migrate`, `Guard{UpToDate: …}`"+`.
- **%s**: for comparison, the same migration under one session lock on which the others block.

A second row shows the library with its other driver, in fewer rounds. gorm and tern always use pgx.

## Time until all %d processes are ready

Each time is the median of the rounds in which no process failed. × is its ratio to pg_advisory_lock around the same migration in the same rounds, with a 95 %% confidence interval (bootstrapped from the rounds) in brackets.

%s

## Lockers, and migrations that are hard on them

%s

goose's session locker does not wait on the server: it tries again every 5 s. Its table locker creates a table of its own. golang-migrate gives up after waiting for its lock for 15 s. A CREATE INDEX CONCURRENTLY under pg_advisory_lock never ends while others wait for the lock; these processes were stopped after 10 s.

## How they fail

The most frequent errors without a guard.

%s`,
		joined(sizes), r.Server, r.Go, r.CPUs, r.sittings(),
		markdown(r.needs()), joined(sizes), markdown(r.failures(false)),
		readme, schemaFirst, schemaOnly, serialize, once, blocking,
		most, markdown(r.times(most)), markdown(r.failures(true)), r.texts())
	return b.String()
}

func markdown(w table.Writer) string { return w.RenderMarkdown() }

func (r *report) sizes() []int {
	var sizes []int
	for _, t := range r.Tallies {
		if !slices.Contains(sizes, t.N) {
			sizes = append(sizes, t.N)
		}
	}
	slices.Sort(sizes)
	return sizes
}

// sittings says so if not everything was measured in one run. The modes of one
// row and number of processes always were.
func (r *report) sittings() string {
	runs := map[string]bool{}
	for _, t := range r.Tallies {
		runs[t.Run] = true
	}
	if len(runs) < 2 {
		return ""
	}
	return fmt.Sprintf(", measured in %d runs", len(runs))
}

func joined(sizes []int) string {
	parts := make([]string, len(sizes))
	for i, n := range sizes {
		parts[i] = fmt.Sprint(n)
	}
	return strings.Join(parts, " · ")
}

func (r *report) needs() table.Writer {
	w := table.NewWriter()
	w.AppendHeader(table.Row{"library", "version", "example", "needs", "UpToDate asks"})
	for _, l := range libraries {
		if l.second || l.special != "" {
			continue
		}
		needs := "Migrate or UpToDate: it takes no lock"
		switch {
		case l.ownLock:
			needs = "Ensure; with CREATE INDEX CONCURRENTLY or slow migrations Migrate or UpToDate"
		case l.guard.UpToDate == nil:
			needs = "Migrate: it takes no lock, and has no version to ask for"
		}
		w.AppendRow(table.Row{l.name, r.Versions[l.name], fmt.Sprintf("[%s](../examples/%s/%s.go)", l.folder, l.folder, l.folder), needs, l.asks})
	}
	return w
}

// texts lists the most frequent error of each library without a guard.
func (r *report) texts() string {
	var b strings.Builder
	for _, l := range append(r.rows(false), r.rows(true)...) {
		counts, silent := map[string]int{}, 0
		for _, t := range l.all {
			if t.Mode.guarded() {
				continue
			}
			silent += t.Silent
			for text, n := range t.Texts {
				counts[text] += n
			}
		}
		texts := make([]string, 0, len(counts))
		for text := range counts {
			texts = append(texts, text)
		}
		slices.SortFunc(texts, func(a, b string) int { return 2*(counts[b]-counts[a]) + strings.Compare(a, b) })
		for _, text := range texts[:min(2, len(texts))] {
			fmt.Fprintf(&b, "- %s, %d ×: `%s`\n", l.title(), counts[text], strings.ReplaceAll(text, "`", "'"))
		}
		if silent > 0 {
			fmt.Fprintf(&b, "- %s, %d ×: no error at all, while a table or index was missing\n", l.title(), silent)
		}
	}
	return b.String()
}

func (l row) title() string {
	if l.Special != "" {
		return fmt.Sprintf("%s, %s, N = %s", l.Library, l.Special, joined((&report{Tallies: l.all}).sizes()))
	}
	return l.Library
}
