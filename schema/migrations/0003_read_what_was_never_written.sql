-- A run may read a table that has no rows yet. Its state is '' then, and stays that until something is added.
CREATE OR REPLACE VIEW input_states AS
SELECT 'space' AS kind, name, concat_ws('|', fingerprint, n_images, n_activations) AS state FROM spaces
UNION ALL
SELECT 'embedding', name, concat_ws('|', fingerprint, n_images) FROM embeddings
UNION ALL
SELECT 'table', name, revision::VARCHAR FROM revisions
UNION ALL
SELECT 'table', name, '' FROM (VALUES ('ratings'), ('captions'), ('image_labels'), ('annotations')) AS known(name)
WHERE name NOT IN (SELECT name FROM revisions)
UNION ALL
SELECT 'table', 'images', count(*)::VARCHAR FROM images
UNION ALL
SELECT 'run', concat_ws('|', analyzer, space, facets), run_id::VARCHAR FROM latest_runs
UNION ALL
SELECT 'newest', concat_ws('|', analyzer, space), max(run_id)::VARCHAR FROM runs GROUP BY analyzer, space;
