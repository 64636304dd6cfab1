package main

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bootlock/bootlock/cmd/bootlock/internal/dsn"
)

// durationValue is a duration on the command line; without a unit it is in seconds.
type durationValue time.Duration

// duration adds a flag whose default is what d is now; one of 0 or less is not shown.
func duration(f *pflag.FlagSet, d *time.Duration, name, usage string) {
	f.Var((*durationValue)(d), name, usage)
}

func (d *durationValue) Type() string { return "duration" }

func (d *durationValue) String() string {
	if *d <= 0 {
		return ""
	}
	return time.Duration(*d).String()
}

func (d *durationValue) Set(text string) error {
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		text += "s"
	}
	value, err := time.ParseDuration(text)
	if err != nil {
		return errors.New("it is a number and a unit, such as 90s or 5m")
	}
	*d = durationValue(value)
	return nil
}

// fromEnvironment sets the flags that the command line leaves out from variables
// such as BOOTLOCK_TIMEOUT, with each value of a list on a line of its own. COMMAND
// inherits what is for every bootlock, such as BOOTLOCK_DSN, and not what was for this
// one.
func fromEnvironment(cmd *cobra.Command, args []string) (err error) {
	void := voidVariables(cmd, args)
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		variable := "BOOTLOCK_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value := os.Getenv(variable)
		if value == "" || err != nil || f.Hidden {
			return
		}
		if cmd.InheritedFlags().Lookup(f.Name) == nil {
			err = os.Unsetenv(variable)
		}
		if void[f.Name] || err != nil {
			return
		}
		values := []string{value}
		if _, ok := f.Value.(pflag.SliceValue); ok {
			values = strings.Split(strings.TrimSpace(value), "\n")
		}
		for _, value := range values {
			if e := cmd.Flags().Set(f.Name, value); e != nil {
				err = usage("%s: %s", variable, dsn.RedactArguments(e.Error()))
			}
		}
	})
	return err
}

// voidVariables are the flags whose variables do not count: those that the command
// line has, or one that excludes them. The demo makes databases, and so only goes
// where the command line sends it.
func voidVariables(cmd *cobra.Command, args []string) map[string]bool {
	void := map[string]bool{"help": true, "version": true, "dsn": cmd.Name() == "demo"}
	cmd.Flags().Visit(func(f *pflag.Flag) { void[f.Name] = true })
	for _, group := range [][]string{{"lock", "key", "schema"}, {"try", "timeout"}, {"once", "once-of", "unless", "until"}} {
		if slices.ContainsFunc(group, func(name string) bool { return void[name] }) || cmd.Name() == "key" && len(args) > 0 {
			for _, name := range group {
				void[name] = true
			}
		}
	}
	return void
}
