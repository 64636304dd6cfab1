// Package report writes docs/benchmarks.md and its pictures from the results of the
// experiments. No figure in them is typed in.
package report

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/bootlock/bootlock/bench/handoff"
	"github.com/bootlock/bootlock/bench/herd"
	"github.com/bootlock/bootlock/bench/lab"
	"github.com/bootlock/bootlock/bench/peers"
	"github.com/bootlock/bootlock/bench/picture"
	"github.com/bootlock/bootlock/bench/scale"
	"github.com/bootlock/bootlock/bench/stats"
	"github.com/bootlock/bootlock/bench/storm"
	"github.com/bootlock/bootlock/bench/uncontended"
	"github.com/bootlock/bootlock/bench/waiting"
)

// Report is what has been measured. An experiment that has not been is empty, and its
// section is left out.
type Report struct {
	machines    []lab.Machine
	uncontended uncontended.Result
	handoff     handoff.Result
	storm       storm.Result
	herd        herd.Result
	waiting     waiting.Result
	costs       scale.Costs
	scale       scale.Result
}

// section is what the document says of one experiment.
type section struct {
	title, text string
	pictures    []drawing
	tables      []table.Writer
}

// drawing is a picture in both themes.
type drawing struct {
	name, alt string
	draw      func(t picture.Theme) ([]byte, error)
}

// sections are those of the experiments that were made.
func (r *Report) sections() []section {
	all := append([]section{r.uncontendedSection(), r.startSection(), r.handoffSection()}, r.stormSections()...)
	all = append(append(all, r.herdSection(), r.waitingSection()), r.scaleSections()...)
	return slices.DeleteFunc(all, func(s section) bool { return len(s.tables) == 0 })
}

// Write writes benchmarks.md and its pictures into a folder, and the line that the
// README has of them.
func (r *Report) Write(folder, readme string) error {
	text, err := os.ReadFile(readme)
	if err != nil {
		return err
	}
	text, err = r.withSummary(text)
	if err != nil {
		return err
	}
	if err := os.WriteFile(readme, text, 0o644); err != nil {
		return err
	}
	for _, s := range r.sections() {
		for _, d := range s.pictures {
			for name, theme := range map[string]picture.Theme{"light": picture.Light, "dark": picture.Dark} {
				svg, err := d.draw(theme)
				if err != nil {
					return fmt.Errorf("%s: %w", d.name, err)
				}
				if err := os.WriteFile(filepath.Join(folder, d.file(name)), svg, 0o644); err != nil {
					return err
				}
			}
		}
	}
	return os.WriteFile(filepath.Join(folder, "benchmarks.md"), []byte(r.Markdown()), 0o644)
}

func (d drawing) file(theme string) string { return "benchmarks-" + d.name + "-" + theme + ".svg" }

func (d drawing) markdown() string {
	return fmt.Sprintf("<picture><source media=\"(prefers-color-scheme: dark)\" srcset=\"%s\"><img alt=\"%s\" src=\"%s\"></picture>\n\n",
		d.file("dark"), d.alt, d.file("light"))
}

// Markdown is benchmarks.md.
func (r *Report) Markdown() string {
	var b strings.Builder
	b.WriteString("# Side by side\n\n")
	b.WriteString("What bootlock costs, beside what you could pick instead, given the same work in the same run. ")
	b.WriteString("This page and its pictures are written by `make bench`, from [its results](../bench/results). ")
	b.WriteString("Look at ratios and orders of magnitude: another machine has other milliseconds.\n\n")
	b.WriteString(r.where() + "\n\n")
	b.WriteString("## In short\n\n")
	b.WriteString(markdown(r.goalTable()))
	b.WriteString("Where something else is better:\n\n")
	for _, line := range r.better() {
		b.WriteString("- " + line + "\n")
	}
	b.WriteString("\n")
	for _, s := range r.sections() {
		b.WriteString("## " + s.title + "\n\n" + s.text + "\n\n")
		for _, d := range s.pictures {
			b.WriteString(d.markdown())
		}
		for _, t := range s.tables {
			b.WriteString(markdown(t))
		}
	}
	b.WriteString("## Who was compared\n\n")
	b.WriteString(whoText + "\n\n" + markdown(r.who()))
	return strings.TrimSpace(b.String()) + "\n"
}

func markdown(w table.Writer) string { return w.RenderMarkdown() + "\n\n" }

// where says on what machine, with what, and when.
func (r *Report) where() string {
	if len(r.machines) == 0 {
		return "Nothing has been measured yet."
	}
	m := r.machines[0]
	var dates []string
	for _, other := range r.machines {
		if !slices.Contains(dates, other.Date) {
			dates = append(dates, other.Date)
		}
	}
	slices.Sort(dates)
	text := fmt.Sprintf("Measured on %s: %d cores (%s) shared by the clients, the pooler and the server, over loopback. Nothing else was measured meanwhile, but the machine was not idle, which shows in the worst values. PostgreSQL %s, PgBouncer %s, Go %s, pgx %s, lib/pq %s.",
		strings.Join(dates, ", "), m.CPUs, m.CPU, m.PostgreSQL, m.PgBouncer, m.Go,
		m.Versions["github.com/jackc/pgx/v5"], m.Versions["github.com/lib/pq"])
	if connect := r.costs.Connect.Server; connect > 0 {
		text += fmt.Sprintf(" A new connection took %.0f ms of the server's CPU time, which is what the starts of many processes are made of.", stats.Milliseconds(connect))
	}
	return text
}

const whoText = "Each peer in its newest version, as its README has it, and where it polls also as often as it may. " +
	"golang-migrate and tern were given one migration that calls the work; their locks cannot be had alone. " +
	"DBOS guards its own schema and nothing else: `MigrateDataSource` does so under `pg_advisory_xact_lock`, and was measured with the starts. " +
	"The migrations of its system database take no lock, and cannot be called alone."

func (r *Report) who() table.Writer {
	w := table.NewWriter()
	w.AppendHeader(table.Row{"peer", "version", "a waiter"})
	for _, p := range peers.All() {
		w.AppendRow(table.Row{p.Name, r.version(p.Module), p.Waits})
	}
	w.AppendRow(table.Row{uncontended.Data, r.version(dbosModule), "blocks"})
	return w
}

const dbosModule = "github.com/dbos-inc/dbos-transact-golang"

func (r *Report) version(module string) string {
	if module == "" || len(r.machines) == 0 {
		return ""
	}
	return r.machines[0].Versions[module]
}

// used are the versions that the report names.
func used(versions map[string]string) map[string]string {
	kept := map[string]string{}
	modules := []string{"github.com/jackc/pgx/v5", "github.com/lib/pq", dbosModule}
	for _, p := range peers.All() {
		modules = append(modules, p.Module)
	}
	for _, m := range modules {
		if v, ok := versions[m]; ok {
			kept[m] = v
		}
	}
	return kept
}
