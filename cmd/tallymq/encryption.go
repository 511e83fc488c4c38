package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/keyring"
	"github.com/tallymq/tallymq/infra/postgres"
)

// openKeyring reads ENCRYPTION_KEYS and makes sure that what is stored can be read with
// them. Without keys there is no keyring.
func (s *service) openKeyring(ctx context.Context) error {
	store := postgres.NewTenantKeys(s.pool)
	if s.cfg.EncryptionKeys == "" {
		if err := keyring.CheckUnset(ctx, store); err != nil {
			return fmt.Errorf("%w: %w", finalOr(err), err)
		}
		return nil
	}
	masters, err := keyring.ParseKeys(s.cfg.EncryptionKeys)
	if err != nil {
		return fmt.Errorf("%w: %w", errFinal, err)
	}
	keys := keyring.New(masters, store, time.Now)
	if err := keys.Check(ctx); err != nil {
		return fmt.Errorf("%w: %w", finalOr(err), err)
	}
	s.keyring = keys
	return nil
}

// errTrying marks an error that may pass.
var errTrying = errors.New("not yet")

// finalOr tells what a person has to mend from what passes.
func finalOr(err error) error {
	if errors.Is(err, keyring.ErrStore) {
		return errTrying
	}
	return errFinal
}

// seal and open are what dispatchers and queries encrypt and decrypt payloads with.
func (s *service) seal(ctx context.Context, tenantID, topicID, messageID string, payload []byte) ([]byte, error) {
	return s.keyring.Seal(ctx, keyring.Binding{TenantID: tenantID, TopicID: topicID, MessageID: messageID}, payload) //nolint:wrapcheck // says what it does
}

func (s *service) open(ctx context.Context, tenantID, topicID, messageID string, payload []byte) ([]byte, error) {
	if s.keyring == nil {
		return nil, commands.ErrUnreadable
	}
	plain, err := s.keyring.Open(ctx, keyring.Binding{TenantID: tenantID, TopicID: topicID, MessageID: messageID}, payload)
	if errors.Is(err, keyring.ErrUnknownKey) || errors.Is(err, keyring.ErrTampered) {
		s.logger.Error("payload that cannot be decrypted", "tenant", tenantID, "message", messageID, "error", err)
		return nil, fmt.Errorf("%w: %w", commands.ErrUnreadable, err)
	}
	return plain, err //nolint:wrapcheck // says what it does
}

// openShown is open for what is shown: of what nobody can read any more, null.
func (s *service) openShown(ctx context.Context, tenantID, topicID, messageID string, payload []byte) ([]byte, error) {
	plain, err := s.open(ctx, tenantID, topicID, messageID, payload)
	if errors.Is(err, commands.ErrUnreadable) {
		return []byte("null"), nil
	}
	return plain, err
}

var sealedMark = []byte(`"sealed":true`)

// openEvent decrypts the payload within an event's data.
func (s *service) openEvent(ctx context.Context, tenantID, kind string, data []byte) ([]byte, error) {
	if !bytes.Contains(data, sealedMark) {
		return data, nil
	}
	e, err := events.Decode(events.Kind(kind), data)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it does
	}
	if m, ok := e.(events.MessagePublished); ok {
		err := s.openMessage(ctx, tenantID, &m)
		return encodeWith(m, m.Offset, err)
	}
	if m, ok := e.(events.MessageScheduled); ok {
		err := s.openMessage(ctx, tenantID, &m.MessagePublished)
		return encodeWith(m, m.ReleaseAtMs, err)
	}
	if c, ok := e.(events.ScheduleCreated); ok && c.Sealed {
		c.Payload, err = s.openShown(ctx, tenantID, c.TopicID, c.ScheduleID, c.Payload)
		c.Sealed = false
		return encodeWith(c, 0, err)
	}
	return data, nil
}

func (s *service) openMessage(ctx context.Context, tenantID string, m *events.MessagePublished) (err error) {
	if !m.Sealed || m.ErasedSHA256 != "" {
		return nil
	}
	m.Payload, err = s.openShown(ctx, tenantID, m.TopicID, m.MessageID, m.Payload)
	m.Sealed, m.PlainBytes = false, 0
	return err
}

// encodeWith is an event's JSON with the value that the log gave it, unless it could not be
// opened.
func encodeWith(e events.Event, value int64, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	frame, err := events.Encode(e)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it does
	}
	return frame.Join(strconv.FormatInt(value, 10)), nil
}
