-- The token that asked for a deployment; none: the admin socket, or before this was kept. What its
-- image may be is judged once more when that is found.
ALTER TABLE deployments ADD COLUMN token_id TEXT;

-- The apps that a source was sent to. Others cannot be deployed from it, whoever knows its digest.
CREATE TABLE source_apps (
    digest TEXT NOT NULL REFERENCES sources (digest) ON DELETE CASCADE,
    app_id INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    PRIMARY KEY (digest, app_id)
) STRICT, WITHOUT ROWID;

INSERT INTO source_apps (digest, app_id)
    SELECT source, app_id FROM releases WHERE source IN (SELECT digest FROM sources)
    UNION
    SELECT source, app_id FROM deployments WHERE source IN (SELECT digest FROM sources);
