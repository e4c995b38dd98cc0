-- Every known rating with its out-of-fold score, and whether it is a like (rating NULL: the pair is not rated).
SELECT scores."user", scores.item, scores.fold, scores.score, ratings.rating,
       CASE WHEN ratings.rating >= $like THEN 1 ELSE 0 END AS relevant
FROM scores
LEFT JOIN ratings ON scores."user" = ratings."user" AND scores.item = ratings.item
