package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// Each flag of each subcommand can be given by its variable.
func TestVariables(t *testing.T) {
	samples := map[string][2]string{ // a variable's value by the flag's type, and what it is then
		"string": {"text", "text"}, "bool": {"true", "true"}, "int": {"7", "7"}, "duration": {"90", "1m30s"}, "int64": {"7", "7"},
		"stringArray": {"one\ntwo", "[one,two]"}, "int64Slice": {"7\n8", "[7,8]"},
	}
	newRoot := (&app{log: &logger{w: &bytes.Buffer{}}}).rootCommand
	for _, command := range newRoot().Commands() {
		if command.Hidden || !command.HasParent() || command.Run == nil && command.RunE == nil {
			continue
		}
		command.InheritedFlags() // merges them
		command.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Name == "help" || command.Name() == "demo" && f.Name == "dsn" {
				return
			}
			t.Run(command.Name()+" "+f.Name, func(t *testing.T) {
				again, _, err := newRoot().Find([]string{command.Name()})
				if err != nil {
					t.Fatal(err)
				}
				again.InheritedFlags()
				t.Setenv("BOOTLOCK_"+strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_")), samples[f.Value.Type()][0])
				if err := fromEnvironment(again, nil); err != nil {
					t.Fatal(err)
				}
				if got, want := again.Flags().Lookup(f.Name).Value.String(), samples[f.Value.Type()][1]; got != want {
					t.Errorf("got %q; want %q", got, want)
				}
			})
		})
	}
}
