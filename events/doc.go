// Package events is the closed catalogue of everything that can happen in
// TallyMQ: one struct per event, its permanent name, its JSON form, the record
// that carries it and the [Log] it is appended to.
//
// It guarantees that history stays readable for ever: names and fields are only
// ever added (a golden JSON per event in testdata guards that), decoding ignores
// fields it does not know, and a fold needs nothing but the [Record] it is given,
// no clock and no chance.
//
// It imports the standard library only; every other package may import it.
package events
