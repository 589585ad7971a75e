-- Every run, with whether it is the newest of its analyzer, space and facets, and whether its inputs have changed since.
SELECT run_id, analyzer, version, space, parameters::VARCHAR AS parameters, facets::VARCHAR AS facets, seed,
       notes::VARCHAR AS notes, n_rows, vectors, started_at, duration_s,
       run_id IN (SELECT run_id FROM latest_runs) AS is_latest,
       run_id IN (SELECT run_id FROM stale_runs) AS is_stale
FROM runs ORDER BY run_id;
