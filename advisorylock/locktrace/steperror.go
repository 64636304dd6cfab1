package locktrace

// StepError says at which step of an operation something failed. It wraps the
// cause: errors.Is and errors.As see through it to the driver's own error.
type StepError struct {
	Op   string // "advisorylock.WithXactLock", "schemaguard.Ensure"
	Name string // what it worked on: a schema, a Locker's Name, else the key
	Step Step   // the step that failed
	Err  error  // why
}

// Error reads "schemaguard.Ensure app: create schema: " and the cause.
func (e *StepError) Error() string {
	return e.Op + " " + e.Name + ": " + string(e.Step) + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *StepError) Unwrap() error { return e.Err }
