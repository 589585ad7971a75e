-- Counts of the summaries of new shards and of the file that is being replaced, bin by bin; images on which a feature is
-- silent are what remains. `bins` is a registered table of all bins with their edges.
INSERT INTO feature_histograms
WITH counted AS (
    SELECT feature_id, bin, sum(n_images)::BIGINT AS n_images
    FROM (
        SELECT feature_id, bin, n_images FROM "the old".feature_histograms WHERE bin > 0
        UNION ALL
        SELECT feature_id, unnest(bins), unnest(counts) FROM summaries
    )
    GROUP BY feature_id, bin
    UNION ALL
    SELECT feature_id, 0, $n_images - n_active FROM feature_stats WHERE n_active < $n_images
)
SELECT feature_id, bin, lower, upper, n_images FROM counted JOIN bins USING (bin) ORDER BY feature_id, bin;
