-- Whose fault it is that a key can't be read. Stands before each script that needs it.

-- Of another type is that key's alone: somebody put it there. Any other error is Redis's, of every key.
local function is_wrong_type(reply)
  return string.find(reply.err, '^WRONGTYPE') ~= nil
end
