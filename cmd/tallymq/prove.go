package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/projections"
	"github.com/tallymq/tallymq/proof"
	"github.com/tallymq/tallymq/queries"
)

// headKeyName is the service key that signs the heads of history's logs. Who keeps it
// secret from a store's writers keeps them from signing another history.
const headKeyName = "history-heads"

// proveFlags are the flags of prove.
type proveFlags struct {
	output, since, tenant string
	heads                 bool
	check, key, head      string
}

func proveCommand() *cobra.Command {
	var f proveFlags
	cmd := &cobra.Command{
		Use:   "prove <messageId> | --heads | --check FILE",
		Short: "Prove that a message's events stand in history as they were written",
		Long: `What is written to history is sealed in the same transaction: each tenant has, per
shard, a log that only grows (a Merkle tree as in RFC 6962).

  prove <messageId>   writes the message's events with their proof: paths from each event
                      to the root of its tenant's log, and that root, signed.
  prove --heads       writes the signed heads (size and root) of all logs. Keep them: with
                      --since, a later proof shows that the log only grew since.
  prove --check FILE  checks such a file, with no database and no network.

A proof that is good says: these events stand in the tenant's log, at these places and
exactly as they are in the file (of an erased payload the hash), and whoever holds the key
signed that log. It does not say that the message has no other events, nor that nobody was
shown another log: compare heads that were kept for that, and have 'tallymq verify' hold
all of history against all seals.`,
		Args: func(_ *cobra.Command, args []string) error { return f.validate(args) },
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case f.check != "":
				return checkProof(cmd.OutOrStdout(), f)
			case f.heads:
				return proveWith(cmd, f, func(ctx context.Context, pool *pgxpool.Pool) (any, error) { return signedHeads(ctx, pool, f.tenant) })
			}
			return proveWith(cmd, f, func(ctx context.Context, pool *pgxpool.Pool) (any, error) { return proveMessage(ctx, pool, f, args[0]) })
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.output, "output", "o", "", "file to write to in place of standard output")
	flags.StringVar(&f.since, "since", "", "file of earlier --heads: prove too that the log only grew since")
	flags.StringVar(&f.tenant, "tenant", "", "the tenant whose heads or message it is, all for none")
	flags.BoolVar(&f.heads, "heads", false, "write the signed heads of the logs")
	flags.StringVar(&f.check, "check", "", "file to check")
	flags.StringVar(&f.key, "key", "", "with --check: the public key that must have signed, in base64")
	flags.StringVar(&f.head, "head", "", "with --check: file of earlier --heads since which the log must only have grown")
	cmd.MarkFlagsMutuallyExclusive("heads", "check")
	cmd.MarkFlagsMutuallyExclusive("heads", "since")
	return cmd
}

// validate says what does not go together.
func (f *proveFlags) validate(args []string) error {
	switch isOfMessage := f.check == "" && !f.heads; {
	case !isOfMessage && len(args) > 0:
		return fmt.Errorf("%q: --check and --heads take no message id", args[0])
	case isOfMessage && len(args) != 1:
		return errors.New("give one message id, or --heads, or --check FILE")
	case isOfMessage && !web.ValidUUID(args[0]):
		return fmt.Errorf("%q: is no message id; allowed: a UUID in lower case", args[0])
	case f.tenant != "" && !web.ValidUUID(f.tenant):
		return fmt.Errorf("--tenant: is %q; allowed: a UUID in lower case", f.tenant)
	case f.key != "" && f.check == "":
		return errors.New("--key: goes with --check")
	case f.head != "" && f.check == "":
		return errors.New("--head: goes with --check")
	case f.check != "" && (f.since != "" || f.output != "" || f.tenant != ""):
		return errors.New("--check: goes with --key and --head alone")
	}
	return nil
}

// proveWith writes what make returns. A file is there whole or not at all.
func proveWith(cmd *cobra.Command, f proveFlags, produce func(context.Context, *pgxpool.Pool) (any, error)) (err error) {
	pool, err := openDatabase(cmd.Context(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
	if err != nil {
		return err
	}
	defer pool.Close()
	file, err := produce(cmd.Context(), pool)
	if err != nil {
		return err
	}
	if f.output == "" {
		return proof.Write(cmd.OutOrStdout(), file) //nolint:wrapcheck // says what it does
	}
	return writeWhole(f.output, func(w io.Writer) error { return proof.Write(w, file) })
}

// writeWhole makes a file by way of one beside it.
func writeWhole(path string, write func(io.Writer) error) (err error) {
	out, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	defer func() {
		if err != nil {
			_ = out.Close()
			_ = os.Remove(out.Name())
		}
	}()
	if err := write(out); err != nil {
		return err
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	if err := os.Rename(out.Name(), path); err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	return nil
}

func proveMessage(ctx context.Context, pool *pgxpool.Pool, f proveFlags, messageID string) (d proof.Document, err error) {
	var since proof.Heads
	if f.since != "" {
		if since, err = readFile(f.since, "--since", proof.ReadHeads); err != nil {
			return d, err
		}
	}
	db := postgres.AllTenants(pool)
	tenantID := f.tenant
	if tenantID == "" {
		if tenantID, err = queries.MessageTenant(ctx, db, messageID); err != nil && !errors.Is(err, queries.ErrNotFound) {
			return d, err //nolint:wrapcheck // says what it does
		}
	}
	if err == nil {
		d, err = queries.Proof(ctx, db, tenantID, messageID, since)
	}
	if errors.Is(err, queries.ErrNotFound) {
		return d, fmt.Errorf("history has no message %s", messageID)
	}
	if err != nil {
		return d, fmt.Errorf("prove %s: %w", messageID, err)
	}
	if f.since != "" && d.Since == nil {
		return d, fmt.Errorf("--since: has no head of the log of tenant %s and shard %d", tenantID, d.Head.Shard)
	}
	key, err := headKey(ctx, pool)
	if err != nil {
		return d, err
	}
	return signed(d, key), nil
}

func signedHeads(ctx context.Context, pool *pgxpool.Pool, tenantID string) (proof.Heads, error) {
	out := proof.Heads{Format: proof.FormatHeads}
	heads, err := queries.Heads(ctx, postgres.AllTenants(pool), tenantID)
	if err != nil {
		return out, err //nolint:wrapcheck // says what it does
	}
	key, err := headKey(ctx, pool)
	if err != nil {
		return out, err
	}
	out.PublicKey, out.Heads = publicKey(key), make([]proof.Head, len(heads))
	for i, h := range heads {
		out.Heads[i] = h.Sign(key)
	}
	return out, nil
}

// headKey is the key that signs heads, made when it is first needed.
func headKey(ctx context.Context, pool *pgxpool.Pool) (ed25519.PrivateKey, error) {
	seed, err := postgres.ServiceKey(ctx, pool, headKeyName)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it does
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("service key %s: has %d bytes, not %d", headKeyName, len(seed), ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

func publicKey(key ed25519.PrivateKey) ed25519.PublicKey {
	public, _ := key.Public().(ed25519.PublicKey) // it is, of this type of key
	return public
}

func signed(d proof.Document, key ed25519.PrivateKey) proof.Document {
	d.Head, d.PublicKey = d.Head.Sign(key), publicKey(key)
	return d
}

// signProof signs a proof that was asked for over HTTP.
func (s *service) signProof(ctx context.Context, d proof.Document) (proof.Document, error) {
	if key := s.headKey.Load(); key != nil {
		return signed(d, *key), nil
	}
	key, err := headKey(ctx, s.pool)
	if err != nil {
		return d, fmt.Errorf("%w: %w", queries.ErrUnavailable, err)
	}
	s.headKey.Store(&key)
	return signed(d, key), nil
}

func readFile[T any](path, flag string, parse func(io.Reader) (T, error)) (T, error) {
	var none T
	in, err := os.Open(path)
	if err != nil {
		return none, fmt.Errorf("%s: %w", flag, err)
	}
	defer func() { _ = in.Close() }()
	out, err := parse(in)
	if err != nil {
		return none, fmt.Errorf("%s: %s: %w", flag, path, err)
	}
	return out, nil
}

// checkProof checks a file and says what it proves.
func checkProof(w io.Writer, f proveFlags) error {
	d, err := readFile(f.check, "--check", proof.ReadDocument)
	if err != nil {
		return err
	}
	var o proof.CheckOptions
	if f.key != "" {
		if o.Key, err = base64.StdEncoding.DecodeString(f.key); err != nil || len(o.Key) != ed25519.PublicKeySize {
			return fmt.Errorf("--key: is no Ed25519 public key in base64, of %d bytes", ed25519.PublicKeySize)
		}
	}
	if f.head != "" {
		heads, err := readFile(f.head, "--head", proof.ReadHeads)
		if err != nil {
			return err
		}
		var has bool
		if o.Old, has = heads.Of(d.Head.TenantID, d.Head.Shard); !has {
			return fmt.Errorf("--head: has no head of the log of tenant %s and shard %d", d.Head.TenantID, d.Head.Shard)
		}
	}
	if err := d.Check(o); err != nil {
		return fmt.Errorf("NOT PROVED: %s: %w", f.check, err)
	}
	printProof(w, d, f, o)
	return nil
}

func printProof(w io.Writer, d proof.Document, f proveFlags, o proof.CheckOptions) {
	_, _ = fmt.Fprintf(w, "PROVED: these %d events of message %s stand in the log of tenant %s, shard %d, exactly as they are in the file:\n", len(d.Events), d.MessageID, d.Head.TenantID, d.Head.Shard)
	for _, e := range d.Events {
		_, _ = fmt.Fprintf(w, "    %s  %-22s %s\n", e.Position.Time().Format("2006-01-02T15:04:05.000Z"), e.Kind, e.ID)
	}
	_, _ = fmt.Fprintf(w, "The log has %d seals and the root %s.\n", d.Head.Size, d.Head.Root)
	key := base64.StdEncoding.EncodeToString(d.PublicKey)
	if f.key != "" {
		_, _ = fmt.Fprintf(w, "It is signed by the key that you gave, %s.\n", key)
	} else {
		_, _ = fmt.Fprintf(w, "It is signed by the key %s, which the file itself names: compare it with the one that you know, or give that with --key.\n", key)
	}
	if o.Old.Size > 0 {
		_, _ = fmt.Fprintf(w, "The log only grew since the head that you kept, of %d seals.\n", o.Old.Size)
	} else if d.Since != nil {
		_, _ = fmt.Fprintf(w, "The log only grew since it had %d seals and the root %s.\n", d.Since.Size, d.Since.Root)
	}
	_, _ = fmt.Fprintln(w, "Not proved: that the message has no other events.")
}

// verifySeals holds history against its seals, and says what it found.
func verifySeals(cmd *cobra.Command, pool *pgxpool.Pool, o projections.VerifyOptions) (isSealed bool, err error) {
	ctx := cmd.Context()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return false, fmt.Errorf("verify seals: %w", err)
	}
	defer conn.Release()
	bar := progress(cmd.ErrOrStderr(), -1, "holding against seals", "events")
	o.Progress = func(n int64) { _ = bar.Set64(n) }
	report, err := projections.VerifySeals(ctx, conn.Conn(), o)
	_ = bar.Clear()
	if err != nil {
		return false, err //nolint:wrapcheck // says what it does
	}
	verdict := "as sealed"
	if !report.OK() {
		verdict = fmt.Sprintf("NOT AS SEALED: %d", report.Wrong)
	}
	_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%-22s %9d seals %s: %d events\n", "history", report.Seals, verdict, report.Events)
	for _, finding := range report.Findings {
		_, _ = fmt.Fprintf(cmd.OutOrStdout(), "    %s\n", finding)
	}
	if report.Unsealed > 0 {
		_, _ = fmt.Fprintf(cmd.OutOrStdout(), "    %d events were written before history was sealed: nothing tells whether they were changed\n", report.Unsealed)
	}
	return report.OK(), nil
}
