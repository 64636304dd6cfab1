package main

import (
	"runtime/debug"
	"testing"
)

// A version says from which revision it was built, once.
func TestVersionOf(t *testing.T) {
	const revision = "0123456789abcdef0123456789abcdef01234567"
	built := func(version, modified string) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: version}, Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: revision}, {Key: "vcs.modified", Value: modified},
		}}
	}
	for _, test := range []struct {
		linked string
		info   *debug.BuildInfo
		want   string
	}{
		{"", nil, "(devel)"},
		{"v1.2.3", nil, "v1.2.3"},
		{"", built("(devel)", "true"), "(devel) 0123456789ab+dirty"},
		{"v1.2.3", built("(devel)", "false"), "v1.2.3 0123456789ab"},
		{"", built("v0.0.0-20260101000000-0123456789ab", "false"), "v0.0.0-20260101000000-0123456789ab"},
	} {
		if got := versionOf(test.linked, test.info); got != test.want {
			t.Errorf("got %q; want %q", got, test.want)
		}
	}
}
