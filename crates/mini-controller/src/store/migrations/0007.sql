-- Whether a token is for some apps only. Those are kept by id, so that a new app never inherits
-- the tokens of an earlier one of its name; with none of them left the token reaches no app.
ALTER TABLE tokens ADD COLUMN bound INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tokens ADD COLUMN rotated_at INTEGER;

CREATE TABLE token_apps (
    token_id TEXT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    app_id   INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    PRIMARY KEY (token_id, app_id)
) STRICT, WITHOUT ROWID;

-- What a token's secret was before it was rotated, and until when it works on.
CREATE TABLE old_secrets (
    hash     BLOB PRIMARY KEY,
    token_id TEXT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    until    INTEGER NOT NULL
) STRICT;

-- Who asked for what. Names, not references: it outlives tokens and apps.
CREATE TABLE audit (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    -- A token's name, `admin socket (uid 0)`, or nothing: nobody that is known here.
    actor      TEXT,
    token_id   TEXT,
    action     TEXT NOT NULL,
    app        TEXT,
    -- What of it: a release, a domain, a token.
    target     TEXT,
    status     INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    source     TEXT
) STRICT;
CREATE INDEX audit_by_app ON audit (app, id);
