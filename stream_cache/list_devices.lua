-- Read one page of the index.
--
-- ARGV[1]: the last id of the page before, '' for the first page
-- ARGV[2]: the most ids
-- Returns: { ids, how many devices there are }

return { page_after(ARGV[1], tonumber(ARGV[2])), redis.call('SCARD', DEVICES) }
