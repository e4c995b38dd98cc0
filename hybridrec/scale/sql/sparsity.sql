-- S_I(u): the share of the catalogue that a user has not rated.
SELECT "user", COUNT(*) AS rated, 1 - COUNT(*) / CAST((SELECT COUNT(*) FROM items) AS DOUBLE) AS sparsity
FROM ratings
GROUP BY "user"
