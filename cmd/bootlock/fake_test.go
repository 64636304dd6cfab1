//go:build unix

package main

import (
	"net"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/rogpeppe/go-internal/testscript"
)

// fake starts a server that says yes to everything and does nothing, as servers
// that only look like PostgreSQL have done with the lock functions.
func fake(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: fake")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Setenv("FAKE_URL", "postgres://fake@"+l.Addr().String()+"/fake?sslmode=disable")
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go sayYes(conn)
		}
	}()
}

func sayYes(conn net.Conn) {
	defer conn.Close()
	b := pgproto3.NewBackend(conn, conn)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"})
	b.Send(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
	status := byte('I')
	for {
		b.Send(&pgproto3.ReadyForQuery{TxStatus: status})
		if err := b.Flush(); err != nil {
			return
		}
		message, err := b.Receive()
		query, ok := message.(*pgproto3.Query)
		if err != nil || !ok {
			return
		}
		status = statusAfter(query.String, status)
		b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
	}
}

func statusAfter(query string, status byte) byte {
	for word, after := range map[string]byte{"begin": 'T', "commit": 'I', "rollback": 'I'} {
		if len(query) >= len(word) && query[:len(word)] == word {
			return after
		}
	}
	return status
}
