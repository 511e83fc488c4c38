package main

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/handlers/rebuild"
	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/projections"
)

// rebuildCheck is how often an instance looks whether a rebuild waits, or was left by one
// that is gone.
const rebuildCheck = 2 * time.Second

// keepProjections rebuilds the read tables where somebody asks for it, and where the code
// that folds is newer than they are. Of all instances, one does it at a time.
func (s *service) keepProjections(ctx context.Context) {
	ticker := time.NewTicker(rebuildCheck)
	defer ticker.Stop()
	for {
		err := s.rebuildIfAsked(ctx)
		if err != nil && ctx.Err() == nil && !errors.Is(err, projections.ErrRebuildUnderWay) {
			s.logger.Warn("rebuild of the read tables stopped; it goes on soon", "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *service) rebuildIfAsked(ctx context.Context) error {
	version := s.projectionVersion
	isNew, err := projections.RequestIfOutdated(ctx, s.pool, version)
	if err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	if isNew {
		s.logger.Info("this program folds differently from what the read tables were folded with; rebuilding them", "version", version)
	}
	open, err := projections.OpenRebuild(ctx, s.pool)
	if errors.Is(err, projections.ErrNoRebuild) || (err == nil && open.Version > version) {
		return nil // nothing to do, or a newer instance's to do
	}
	if err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	s.logger.Info("rebuilding the read tables", "rebuild", open.ID, "reason", open.Reason, "folded", open.Events)
	o := s.rebuildOptions()
	o.Version = version
	done, err := projections.Rebuild(ctx, o)
	if err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	var differed []string
	for _, t := range done.Tables {
		if t.Differs() {
			differed = append(differed, t.Table)
		}
	}
	s.logger.Info("the read tables are rebuilt", "rebuild", done.ID, "events", done.Events, "version", done.Version, "differed", differed)
	return nil
}

func (s *service) rebuildOptions() projections.RebuildOptions {
	return projections.RebuildOptions{
		Shards:         s.cfg.Shards,
		Connect:        func(ctx context.Context) (*pgx.Conn, error) { return postgres.Connect(ctx, s.cfg.DatabaseURL) },
		HorizonSetting: postgres.HorizonSetting, MessageIDBound: postgres.MessageIDBound, Logger: s.logger,
	}
}

// standing is how far projections are.
func (s *service) standing(ctx context.Context) ([]rebuild.Projection, error) {
	standing, err := projections.StandingOf(ctx, s.pool)
	if err != nil {
		s.logger.Warn("how far projections are", "error", err)
		return nil, err //nolint:wrapcheck // says what it does
	}
	out := rebuild.Projection{Name: projections.Name, Version: standing.Version, CodeVersion: s.projectionVersion, Checkpoints: []rebuild.Checkpoint{}}
	for _, c := range standing.Checkpoints {
		out.Checkpoints = append(out.Checkpoints, rebuild.Checkpoint{Shard: c.Shard, Position: strconv.FormatInt(int64(c.Position), 10), UpdatedAt: web.Time(c.UpdatedAt)})
	}
	if standing.Rebuild != nil {
		shown := showRebuild(*standing.Rebuild)
		out.Rebuild = &shown
	}
	return []rebuild.Projection{out}, nil
}

// askRebuild asks for a rebuild, which an instance that folds works on.
func (s *service) askRebuild(ctx context.Context) (rebuild.Rebuild, error) {
	for {
		asked, _, err := projections.RequestRebuild(ctx, s.pool, projections.ReasonRequest, s.projectionVersion)
		if errors.Is(err, projections.ErrNoRebuild) {
			continue // the one under way ended between two statements
		}
		if err != nil {
			s.logger.Warn("a rebuild was asked for", "error", err)
			return rebuild.Rebuild{}, err //nolint:wrapcheck // says what it does
		}
		return showRebuild(asked), nil
	}
}

func showRebuild(r projections.RebuildState) rebuild.Rebuild {
	out := rebuild.Rebuild{
		ID: r.ID, Projection: projections.Name, Version: r.Version, Reason: r.Reason, Status: r.Status, Phase: r.Phase,
		Events: r.Events, Total: r.Total, Error: r.Error, Tables: []rebuild.Table{},
		RequestedAt: web.Time(r.RequestedAt), StartedAt: web.TimePtr(r.StartedAt), UpdatedAt: web.Time(r.UpdatedAt), FinishedAt: web.TimePtr(r.FinishedAt),
	}
	for _, t := range r.Tables {
		out.Tables = append(out.Tables, rebuild.Table{Table: t.Table, SHA256: t.SHA256, LiveSHA256: t.LiveSHA256, Differed: t.Differs(), Partial: t.Partial})
	}
	if r.StartedAt == nil || r.Total == nil || r.Events == 0 || !r.UpdatedAt.After(*r.StartedAt) {
		return out
	}
	perSecond := float64(r.Events) / r.UpdatedAt.Sub(*r.StartedAt).Seconds()
	out.EventsPerSecond = &perSecond
	left := int64(float64(max(*r.Total-r.Events, 0)) / perSecond * float64(time.Second/time.Millisecond))
	out.LeftMs = &left
	return out
}
