//go:build go1.25

package schemaguardtest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/schemaguard/schemaguardtest"
)

func TestCheckOrder(t *testing.T) {
	t.Parallel()
	var rec locktrace.Recorder
	trace := rec.Trace()
	for _, e := range []locktrace.Event{
		{Step: locktrace.Connect},
		{Step: locktrace.Begin},
		{Step: locktrace.Lock, Err: errors.New("boom")},
		{Step: locktrace.Release},
	} {
		trace.Done(context.Background(), e)
	}
	const got = "connect > begin > lock! > release"
	v := &verdict{t: t}
	schemaguardtest.CheckOrder(v, &rec, got)
	v.want()
	for want, text := range map[string]string{
		"connect > begin > lock > release": "step 3 is lock!; want lock: boom",
		"connect > begin":                  "step 3 is lock!; want the end: boom",
		got + " > now":                     "step 5 is the end; want now",
		"":                                 "step 1 is connect; want the end",
	} {
		v := &verdict{t: t}
		schemaguardtest.CheckOrder(v, &rec, want)
		v.want(text + "\ngot  " + got + "\nwant " + want)
	}
	v = &verdict{t: t}
	schemaguardtest.CheckOrder(v, new(locktrace.Recorder), "connect")
	v.want("step 1 is the end; want connect")
}
