-- Runs of analyses: what was computed, with what, from what. Their rows are in the schema `results`, one table per
-- analyzer, which the first commit of that analyzer creates from its declared columns.
CREATE TABLE runs (
    run_id       INTEGER PRIMARY KEY,   -- counts from 1, never used twice
    analyzer     VARCHAR NOT NULL,
    version      VARCHAR NOT NULL,      -- of the analyzer
    space        VARCHAR NOT NULL,
    parameters   JSON    NOT NULL,      -- all of them, defaults filled in
    facets       JSON    NOT NULL,      -- those for whose values results stand side by side
    seed         BIGINT,                -- NULL where nothing is random
    notes        JSON    NOT NULL,      -- figures about the run as a whole, e.g. calibrated thresholds
    n_rows       BIGINT  NOT NULL,
    vectors      VARCHAR,               -- its LanceDB table below vectors/results, or NULL
    started_at   TIMESTAMP NOT NULL,    -- UTC
    duration_s   DOUBLE  NOT NULL
);
CREATE SEQUENCE run_ids START 1;

-- The state of everything a run has read, as it was then.
CREATE TABLE run_inputs (
    run_id       INTEGER NOT NULL,
    kind         VARCHAR NOT NULL,      -- space, embedding, table, run, newest (run), file (by SHA-256)
    name         VARCHAR NOT NULL,      -- of runs: analyzer, space and facets; of the newest without facets
    state        VARCHAR NOT NULL
);

-- What each table of `results` is, so that views can be made without asking the plugin that brought it.
CREATE TABLE result_tables (
    analyzer     VARCHAR PRIMARY KEY,
    columns      JSON    NOT NULL,      -- [[name, SQL type], …]
    in_features  JSON    NOT NULL,      -- columns that the view `features` shows
    strongest    VARCHAR,               -- of several rows of a feature `features` shows the one where |this| is largest
    is_incremental BOOLEAN NOT NULL     -- whether runs add to each other: the newest row of each feature counts
);
CREATE SCHEMA results;

-- How often the rows of a table have changed.
CREATE TABLE revisions (
    name         VARCHAR PRIMARY KEY,
    revision     BIGINT NOT NULL
);

-- How the encoder cuts a picture before it sees it (resize, resize_to, crop_to), so that token maps can be laid over it.
ALTER TABLE spaces ADD COLUMN framing JSON;

-- The newest run of each analyzer, space and set of facets.
CREATE VIEW latest_runs AS
SELECT max(run_id) AS run_id, analyzer, space, facets FROM runs GROUP BY analyzer, space, facets;

-- The state of everything that runs read, as it is now.
CREATE VIEW input_states AS
SELECT 'space' AS kind, name, concat_ws('|', fingerprint, n_images, n_activations) AS state FROM spaces
UNION ALL
SELECT 'embedding', name, concat_ws('|', fingerprint, n_images) FROM embeddings
UNION ALL
SELECT 'table', name, revision::VARCHAR FROM revisions
UNION ALL
SELECT 'table', 'images', count(*)::VARCHAR FROM images
UNION ALL
SELECT 'run', concat_ws('|', analyzer, space, facets), run_id::VARCHAR FROM latest_runs
UNION ALL
SELECT 'newest', concat_ws('|', analyzer, space), max(run_id)::VARCHAR FROM runs GROUP BY analyzer, space;

-- Runs that would come out differently now: something that they read has changed, or is itself stale. What SQL cannot
-- see, the files, is compared when the same run is asked for again.
CREATE VIEW stale_runs AS
WITH RECURSIVE stale(run_id) AS (
    SELECT run_id FROM run_inputs WHERE kind <> 'file' AND (kind, name, state) NOT IN (SELECT (kind, name, state) FROM input_states)
    UNION
    SELECT i.run_id FROM run_inputs AS i, stale AS s WHERE i.kind IN ('run', 'newest') AND i.state = s.run_id::VARCHAR
)
FROM stale;
