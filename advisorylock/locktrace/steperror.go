package locktrace

// StepError says at which step an operation failed. It wraps the cause, so that
// errors.Is and errors.As find the driver's own error.
type StepError struct {
	Op   string // the function that was called: "advisorylock.WithXactLock", "schemaguard.Ensure"
	Name string // what it worked on: a schema or a Locker's Name, else the key in decimal
	Step Step   // the step that failed
	Err  error  // why
}

// Error returns the operation, the name, the step and the cause:
// "schemaguard.Ensure app: create schema: …".
func (e *StepError) Error() string {
	return e.Op + " " + e.Name + ": " + string(e.Step) + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *StepError) Unwrap() error { return e.Err }
