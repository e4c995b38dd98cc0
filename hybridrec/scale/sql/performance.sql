-- P(u), and the number of pairs it rests on.
SELECT "user",
       SUM(correct) / NULLIF(SUM(relevant * irrelevant), 0) AS performance,
       SUM(relevant * irrelevant) AS pairs
FROM pairs
GROUP BY "user"
