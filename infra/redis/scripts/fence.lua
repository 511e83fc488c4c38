-- Stands before every script that reads or changes what a shard holds. The last argument
-- is the epoch that the caller knows the log by, '' for any: where Redis has lost what it
-- had, or was put back since, nothing is done.
local known = table.remove(ARGV)
if known ~= '' and redis.call('GET', ARGV[1] .. 'epoch') ~= known then
  return redis.error_reply('EPOCH the log is not the one that the caller knows')
end
