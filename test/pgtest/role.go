package pgtest

// WeakRole has no right but to connect. Its name and password are the same
// everywhere, so that a pooler can be told of it; who needs it creates it.
const (
	WeakRole     = "bootlock_weak"
	WeakPassword = "weak"
)
