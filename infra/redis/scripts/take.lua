-- Reads pending entries of this consumer for one more delivery, which their
-- delivery counts record. What was settled or taken over by another consumer stays
-- as it is.
--
-- KEYS[1]  the stream
-- ARGV     group, consumer, then the entries' ids
--
-- Answers {delivery count, fields} for each entry; the count is 0 for an entry that
-- is not this consumer's, and -1 for one that was deleted from the stream, which is
-- no longer pending then.
local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local taken = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local pending = redis.call('XPENDING', stream, group, id, id, 1, consumer)
  if #pending == 0 then
    taken[#taken + 1] = { 0, {} }
  else
    local entry = redis.call('XCLAIM', stream, group, consumer, 0, id)[1]
    if entry then
      taken[#taken + 1] = { pending[1][4] + 1, entry[2] }
    else
      taken[#taken + 1] = { -1, {} }
    end
  end
end
return taken
