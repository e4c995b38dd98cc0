-- Pairs of a liked and another item in the right order (a tie counts one half), likes and others, in each fold.
-- With ties at their mean place they are Mann & Whitney's U (1947).
WITH placed AS (
  SELECT "user", fold, relevant,
         (RANK() OVER by_score + COUNT(*) OVER by_score) / 2.0 AS place
  FROM judged
  WINDOW by_score AS (PARTITION BY "user", fold ORDER BY score)
)
SELECT "user", fold,
       SUM(relevant * place) - SUM(relevant) * (SUM(relevant) + 1) / 2.0 AS correct,
       SUM(relevant) AS relevant,
       SUM(1 - relevant) AS irrelevant
FROM placed
GROUP BY "user", fold
