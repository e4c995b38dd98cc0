-- The controls' scores of candidates: an item's number of ratings, and its mean rating (of an unrated item: of all).
WITH of_items AS (
  SELECT item, COUNT(*) AS size, CAST(SUM(rating) AS DOUBLE) AS sum FROM ratings GROUP BY item
)
SELECT candidates."user", candidates.item,
       COALESCE(of_items.size, 0) AS popularity,
       COALESCE(of_items.sum / of_items.size, (SELECT SUM(sum) / SUM(size) FROM of_items)) AS item_mean
FROM candidates
LEFT JOIN of_items ON candidates.item = of_items.item
