-- The release that a rollback goes back to.
ALTER TABLE deployments ADD COLUMN target INTEGER;

-- How many instances of a process type an app wants, where it is not what its release says.
CREATE TABLE formation (
    app_id  INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    process TEXT NOT NULL,
    count   INTEGER NOT NULL,
    PRIMARY KEY (app_id, process)
) STRICT, WITHOUT ROWID;
