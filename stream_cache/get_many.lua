-- Read the metadata of devices, all at one moment.
--
-- ARGV[1]: MessagePack list of device ids
-- Returns: for each, the values of the fields below, or an empty list where there is no hash of ours

local found = {}
for i, id in ipairs(cmsgpack.unpack(ARGV[1])) do
  local fields = redis.pcall('HMGET', 'device:' .. id .. ':metadata', 'last_updated', 'datatype_id', 'datatype_name',
    'datatype_unit', 'persist', '_json')
  found[i] = (fields.err or not fields[1]) and {} or fields
end
return found
