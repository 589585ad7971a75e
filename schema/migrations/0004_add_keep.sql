-- How many of its strongest images a space keeps for each feature; NULL where every activation is kept.
ALTER TABLE spaces ADD COLUMN keep INTEGER;

-- A name that is dropped and made again with another `keep` has other rows. concat_ws leaves NULL out, so that the
-- states that runs took down of whole spaces stay as they are.
CREATE OR REPLACE VIEW input_states AS
SELECT 'space' AS kind, name, concat_ws('|', fingerprint, n_images, n_activations, keep) AS state FROM spaces
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
