package lab

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
)

// cpuName is empty where the system does not say.
func cpuName() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	name := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(text)
	if name == nil {
		return ""
	}
	return strings.Join(strings.Fields(string(name[1])), " ")
}

// bouncerVersion is empty if there is none.
func bouncerVersion() string {
	text, _ := exec.Command("pgbouncer", "--version").Output()
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimPrefix(line, "PgBouncer ")
}
