-- Of each pair in the registered table `family`: the mean activation of `other` on the $n patches on which the feature is
-- strongest, silent ones counted as 0. Of equal patches the one of the lower image counts, then the lower token.
WITH top AS (
    SELECT feature_id, -patch.p AS place
    FROM (
        -- The aggregate takes only a constant for $n: it is written into the text, as an integer.
        SELECT feature_id, unnest(max(struct_pack(v := value, p := -(image_id::BIGINT * 65536 + token)), $n)) AS patch
        FROM token_activations GROUP BY feature_id
    )
),
counted AS (SELECT feature_id, count(*) AS n_top FROM top GROUP BY feature_id)
SELECT family.feature_id, family.other, sum(t.value::DOUBLE) / any_value(n_top) AS mean
FROM family
JOIN counted ON counted.feature_id = family.feature_id
JOIN top ON top.feature_id = family.feature_id
JOIN token_activations AS t
    ON t.feature_id = family.other AND t.image_id = top.place // 65536 AND t.token = top.place % 65536
GROUP BY ALL
