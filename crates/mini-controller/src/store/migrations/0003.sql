-- Settings of an app that go into its releases, beside its config vars.
CREATE TABLE limits (
    app_id       INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    process      TEXT NOT NULL,
    memory_bytes INTEGER,
    cpu_millis   INTEGER,
    pids         INTEGER,
    PRIMARY KEY (app_id, process)
) STRICT, WITHOUT ROWID;

-- A volume outlives its app: `app` is the name of the one that it belongs or belonged to.
CREATE TABLE volumes (
    engine_name TEXT PRIMARY KEY,
    app         TEXT NOT NULL,
    app_id      INTEGER REFERENCES apps (id) ON DELETE SET NULL,
    name        TEXT NOT NULL,
    -- Where the next release finds it; none: it is kept and not mounted.
    path        TEXT,
    shared      INTEGER NOT NULL DEFAULT 0,
    created_at  INTEGER NOT NULL,
    -- Its data are to be removed as soon as nothing uses them.
    doomed      INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE UNIQUE INDEX volumes_by_name ON volumes (app, name) WHERE doomed = 0;

-- How a deployment takes the place of what is live, where the user said so.
ALTER TABLE deployments ADD COLUMN strategy TEXT;

-- Whether the release's command has run.
ALTER TABLE releases ADD COLUMN prepared INTEGER NOT NULL DEFAULT 0;

-- Starts of instances that the user wants replaced.
CREATE TABLE replacements (
    instance TEXT PRIMARY KEY,
    app_id   INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    started  INTEGER NOT NULL
) STRICT;
