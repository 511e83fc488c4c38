-- What every group of a topic has not settled, by name, at one moment.
--
-- KEYS[1]  the shard's due set
-- ARGV     prefix, topic, partitions, bytes at most that are looked through of a group's
--          retries
--
-- Answers {the log's last entry id, {{next offset, first offset held, entries held,
--     entries that are missing because they were erased}…},
--   {{group, unsettled, {{offset from which nothing was handed out, {pending offset…}}…},
--     {"message/attempt/attempts before"…}, 1 where all of its retries were looked
--     through}…}, messages that wait to be released}.
local topic, partitions, most = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local STEP = 100

local function offset_of(id) return tonumber(string.match(id, '%-(%d+)$')) - 1 end

local streams = {}
for p = 0, partitions - 1 do
  local key = prefix .. 'q:' .. topic .. ':' .. int(p)
  local nxt = tonumber(redis.call('HGET', prefix .. 'topic:' .. topic, 'o:' .. int(p)) or '0')
  local head = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  local first = head and offset_of(head[1]) or nxt
  streams[#streams + 1] = { nxt, first, redis.call('XLEN', key), holes_from(topic, int(p), first + 1) }
end

local function place_of(key, group)
  local delivered, pending = nil, {}
  if redis.call('EXISTS', key) == 1 then
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', key)) do
      local g = {}
      for i = 1, #info, 2 do g[info[i]] = info[i + 1] end
      if g['name'] == group then delivered = offset_of(g['last-delivered-id']) + 1 end
    end
  end
  local from = '-'
  while delivered do
    local page = redis.call('XPENDING', key, group, from, '+', 1000)
    for _, one in ipairs(page) do pending[#pending + 1] = offset_of(one[1]) end
    if #page < 1000 then break end
    from = '(' .. page[#page][1]
  end
  return { delivered or -1, pending }
end

-- A retry's name, by its fields.
local function name_of(fields)
  local f = {}
  for i = 9, #fields - 1, 2 do f[fields[i]] = fields[i + 1] end
  return fields[2] .. '/' .. (f['att'] or '') .. '/' .. (f['base'] or '')
end

local function outside(group)
  local names, bytes = {}, 0
  for _, member in ipairs(redis.call('HKEYS', prefix .. 'parked:' .. topic .. ':' .. group)) do
    names[#names + 1] = string.match(member, '|([^|]+)$')
  end
  local retries, from = prefix .. 'retry:' .. topic .. ':' .. group, '-'
  repeat
    local page = redis.call('XRANGE', retries, from, '+', 'COUNT', STEP)
    for _, e in ipairs(page) do
      names[#names + 1] = name_of(e[2])
      bytes = bytes + #e[2][6]
    end
    if #page > 0 then from = '(' .. page[#page][1] end
    if bytes > most then return names, 0 end
  until #page < STEP
  if counted('heldn', topic, group) > 0 then
    for _, key in ipairs(redis.call('HKEYS', prefix .. 'busy:' .. topic .. ':' .. group)) do
      for _, packed in ipairs(redis.call('LRANGE', held_key(topic, group, key), 0, -1)) do
        names[#names + 1] = name_of(cmsgpack.unpack(packed))
        bytes = bytes + #packed
        if bytes > most then return names, 0 end
      end
    end
  end
  return names, 1
end

local groups = {}
local n = tonumber(redis.call('HGET', prefix .. 'topic:' .. topic, 'n') or '0')
local all = redis.call('HGETALL', prefix .. 'groups:' .. topic)
for k = 1, #all, 2 do
  local group, places = all[k], {}
  for p = 0, partitions - 1 do places[#places + 1] = place_of(prefix .. 'q:' .. topic .. ':' .. int(p), group) end
  local names, whole = outside(group)
  groups[#groups + 1] = { group, n - tonumber(all[k + 1]), places, names, whole }
end
return { log_end(), streams, groups, redis.call('HKEYS', prefix .. 'scheduled:' .. topic) }
