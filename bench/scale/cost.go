package scale

import "time"

// Cost is the time that something takes on CPUs: in the process that wants it, in the
// pooler, and in the server.
type Cost struct {
	Client time.Duration `json:"client_ns"`
	Pooler time.Duration `json:"pooler_ns,omitempty"`
	Server time.Duration `json:"server_ns"`
}

// Costs are what the model is fed with.
type Costs struct {
	Connect       Cost          `json:"connect"`
	Refused       Cost          `json:"refused"`        // a connection that the server has no room for
	PoolerConnect Cost          `json:"pooler_connect"` // one to the pooler
	Trip          Cost          `json:"trip"`           // a short statement, BEGIN or COMMIT
	Lease         Cost          `json:"lease"`          // the statement that takes the lock of Hold
	Burst         Cost          `json:"burst"`          // the statement that blocks, but for the blocking
	Change        Cost          `json:"change"`         // a short statement of a migration
	Look          time.Duration `json:"look_ns"`        // at all sessions of the server
	LookEach      time.Duration `json:"look_each_ns"`   // more, for each of them
}

func (c Cost) less(o Cost) Cost {
	return Cost{Client: max(0, c.Client-o.Client), Pooler: max(0, c.Pooler-o.Pooler), Server: max(0, c.Server-o.Server)}
}

func (c Cost) by(n int) Cost {
	d := time.Duration(n)
	return Cost{Client: c.Client / d, Pooler: c.Pooler / d, Server: c.Server / d}
}
