-- A pair that is there twice, if there is one.
SELECT "user", item FROM checked GROUP BY "user", item HAVING COUNT(*) > 1 LIMIT 1
