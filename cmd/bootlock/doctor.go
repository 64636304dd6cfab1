package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/doctor"
	"github.com/bootlock/bootlock/cmd/bootlock/internal/signals"
	"github.com/bootlock/bootlock/internal/sqlstate"
)

func (a *app) doctorCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Does locking really work on this database? Proved by trying",
		Long: `doctor tries, on two connections, what the locks of bootlock rely on: that they
exclude, that the end of a transaction or session frees them, that the server
ends a holder that has gone silent. It tells what the server, the pooler and the
role allow, and what to do about the rest. It leaves nothing behind.

The exit code is 0 if the guard protects here, and 1 if it would not.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd.Context(), asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func (a *app) doctor(parent context.Context, asJSON bool) error {
	ctx, _, stop := signals.Catch(parent)
	defer stop()
	first, err := a.connect(ctx, "doctor")
	if err != nil {
		return err
	}
	defer first.Close() //nolint:errcheck // nothing was changed
	second, err := a.connect(ctx, "doctor")
	if sqlstate.Of(err) == "53300" {
		err = &exitError{code: exitUnreachable, driver: true, err: fmt.Errorf("%w\n  doctor needs two connections at once, and bootlock run one for each lock besides those of COMMAND:"+
			" raise max_connections, or the limit, by ALTER ROLE or ALTER DATABASE … CONNECTION LIMIT", err)}
	}
	if err != nil {
		return err
	}
	defer second.Close() //nolint:errcheck // nothing was changed

	report, err := doctor.Run(ctx, first.DB, second.DB)
	if err != nil {
		return a.failure(ctx, err)
	}
	if err := showReport(a.out, report, asJSON); err != nil {
		return &exitError{code: exitOwn, err: err}
	}
	if !report.Protects {
		return &exitError{code: exitFailed}
	}
	return nil
}

func showReport(out io.Writer, report *doctor.Report, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(report)
	}
	for _, f := range report.Findings {
		fmt.Fprintf(out, "%-5s %s: %s\n", f.Level, f.Name, visible(f.Text))
		if f.Advice != "" {
			fmt.Fprintf(out, "      %s\n", f.Advice)
		}
	}
	verdict := "The guard protects here."
	if !report.Protects {
		verdict = "The guard does NOT protect here."
	}
	_, err := fmt.Fprintln(out, verdict)
	return err
}
