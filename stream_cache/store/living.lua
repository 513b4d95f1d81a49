-- Tell of which devices a hash lives.
--
-- KEYS: the devices' hashes
-- Returns: for each 1, or 0 where it is gone, keeps a tombstone's stamp, or is not a hash

local found = {}
for i, key in ipairs(KEYS) do
  local lives = redis.pcall('HEXISTS', key, 'last_updated')
  if type(lives) == 'table' then
    if not string.find(lives.err, 'WRONGTYPE', 1, true) then return redis.error_reply(lives.err) end
    lives = 0
  end
  found[i] = lives
end
return table.concat(found)
