-- Give hashes that are not ours a time to live, where they have none.
--
-- KEYS: hashes that had no stamp of ours when they were examined
-- ARGV[1]: the time to live, ms
-- Returns: how many got it

local count = 0
for _, key in ipairs(KEYS) do
  if redis.call('HEXISTS', key, '_at') == 0 then
    if redis.call('PTTL', key) == -1 then count = count + redis.call('PEXPIRE', key, ARGV[1]) end
  end
end
return count
