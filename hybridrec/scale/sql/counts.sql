-- All that P(u) needs: pairs in the right order, a tie counting one half, and likes and other items of a user and fold.
-- Ranks with ties at their mean give the pairs (Mann & Whitney 1947). P(u) = SUM(correct) / SUM(relevant * irrelevant).
WITH placed AS (
  SELECT "user", fold, relevant,
         RANK() OVER (PARTITION BY "user", fold ORDER BY score)
         + (COUNT(*) OVER (PARTITION BY "user", fold, score) - 1) / 2.0 AS place
  FROM judged
)
SELECT "user", fold,
       SUM(relevant * place) - SUM(relevant) * (SUM(relevant) + 1) / 2.0 AS correct,
       SUM(relevant) AS relevant,
       SUM(1 - relevant) AS irrelevant
FROM placed
GROUP BY "user", fold
