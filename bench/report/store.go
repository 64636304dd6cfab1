package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/bootlock/bootlock/bench/handoff"
	"github.com/bootlock/bootlock/bench/herd"
	"github.com/bootlock/bootlock/bench/lab"
	"github.com/bootlock/bootlock/bench/scale"
	"github.com/bootlock/bootlock/bench/storm"
	"github.com/bootlock/bootlock/bench/uncontended"
	"github.com/bootlock/bootlock/bench/waiting"
)

// stored is one file of results.
type stored[T any] struct {
	Machine lab.Machine `json:"machine"`
	Result  T           `json:"result"`
}

// Store writes the result of one part into a folder.
func Store(folder, part string, machine lab.Machine, result any) error {
	machine.Versions = used(machine.Versions)
	text, err := json.MarshalIndent(stored[any]{machine, result}, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, part+".json"), append(text, '\n'), 0o644)
}

// Load reads what is in a folder. What has not been measured is not in the report.
func Load(folder string) (*Report, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return nil, err
	}
	r := &Report{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		experiment, _, _ := strings.Cut(name, "-")
		switch experiment {
		case "uncontended":
			err = add(r, text, func(u uncontended.Result) { r.uncontended.Rows = append(r.uncontended.Rows, u.Rows...) })
		case "handoff":
			err = add(r, text, func(h handoff.Result) { r.handoff.Rows = append(r.handoff.Rows, h.Rows...) })
		case "storm":
			err = add(r, text, func(s storm.Result) { r.storm.Rows = append(r.storm.Rows, s.Rows...) })
		case "herd":
			err = add(r, text, func(h herd.Result) { r.herd = h })
		case "costs":
			err = add(r, text, func(c scale.Costs) { r.costs = c })
		case "scale":
			err = add(r, text, func(s scale.Result) { r.scale = s })
		case "waiting":
			err = add(r, text, func(w waiting.Result) { r.waiting = w })
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return r, nil
}

// Costs reads the result of the part costs.
func Costs(folder string) (scale.Costs, error) {
	text, err := os.ReadFile(filepath.Join(folder, "costs.json"))
	if err != nil {
		return scale.Costs{}, err
	}
	r := &Report{}
	err = add(r, text, func(c scale.Costs) { r.costs = c })
	return r.costs, err
}

func add[T any](r *Report, text []byte, put func(result T)) error {
	var s stored[T]
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	r.machines = append(r.machines, s.Machine)
	put(s.Result)
	return nil
}
