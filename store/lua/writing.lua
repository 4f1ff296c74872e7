-- What every script goes on with that changes anything.
--
-- A caller that got no answer asks again, as the next attempt of the same call. The earlier ones may still be on their way: from now on
-- they are void, for a day. Each entry of a log begins with the call that made it, so the new attempt sees whether one was carried out.
local void = base .. 'void'
if attempt > 0 then
    local now = tonumber(redis.call('TIME')[1])
    redis.call('ZREMRANGEBYSCORE', void, '-inf', now - 86400)
    for earlier = 0, attempt - 1 do
        redis.call('ZADD', void, now, call .. earlier)
    end
end
if redis.call('ZSCORE', void, call .. attempt) then
    return answer('void')
end

local function made(id, sequence)
    local entry = redis.call('HGET', base .. 'log:' .. id, sequence)
    return entry and string.sub(entry, 1, #call) == call
end

local function fenced()
    return ARGV[5] ~= '' and tonumber(ARGV[5]) < tonumber(known[5])
end

local function change()
    known[2] = redis.call('HINCRBY', KEYS[1], 'changes', 1)
end

local function count_removal()
    known[4] = redis.call('HINCRBY', KEYS[1], 'removals', 1)
end

-- All keys are of one length; the end is, too.
local function index_member(key, id, sequence)
    return key .. id .. string.format('\0%016d', tonumber(sequence))
end

-- The snapshot that a move led to. Its entry is msgpack of [0, kind, from or nil, to, ...], both of 32 bytes, which Redis's own reader of
-- msgpack does not know as what they are.
local function led_to(entry)
    local at = 3
    local length = string.byte(entry, at)
    at = length == 0xd9 and at + 2 + string.byte(entry, at + 1) or at + 1 + length - 0xa0
    at = string.byte(entry, at) == 0xc0 and at + 1 or at + 34
    return string.sub(entry, at + 2, at + 33)
end

-- How many moves of a tenant's sessions led to a snapshot. `by`: 1, or -1 when they go.
local function count_led(tenant, entry, by)
    local led, snapshot = base .. 'led:' .. tenant, led_to(entry)
    if redis.call('HINCRBY', led, snapshot, by) <= 0 then
        redis.call('HDEL', led, snapshot)
    end
end

local function append(id, sequence, key, entry)
    count_led(redis.call('HGET', base .. 'session:' .. id, 'tenant'), entry, 1)
    redis.call('HSET', base .. 'log:' .. id, sequence, call .. entry)
    if key ~= '' then
        redis.call('HSET', base .. 'keyed:' .. id, sequence, key)
        redis.call('ZADD', base .. 'keys', 0, index_member(key, id, sequence))
    end
end

local function set_expiry(id)
    local times = redis.call('HMGET', base .. 'session:' .. id, 'used_at_s', 'ttl_s')
    redis.call('ZADD', base .. 'sessions', tonumber(times[1]) + tonumber(times[2]), id)
end

local function list(id)
    local known_by = redis.call('HMGET', base .. 'session:' .. id, 'tenant', 'place')
    redis.call('ZADD', base .. 'tenant:' .. known_by[1], 0, known_by[2] .. id)
end

local function remove(id)
    local known_by = redis.call('HMGET', base .. 'session:' .. id, 'tenant', 'place')
    if known_by[1] then
        redis.call('ZREM', base .. 'tenant:' .. known_by[1], known_by[2] .. id)
        for _, entry in ipairs(redis.call('HVALS', base .. 'log:' .. id)) do
            count_led(known_by[1], string.sub(entry, #call + 1), -1)
        end
    end
    local keyed = redis.call('HGETALL', base .. 'keyed:' .. id)
    for at = 1, #keyed, 2 do
        redis.call('ZREM', base .. 'keys', index_member(keyed[at + 1], id, keyed[at]))
    end
    redis.call('DEL', base .. 'session:' .. id, base .. 'log:' .. id, base .. 'keyed:' .. id)
    redis.call('ZREM', base .. 'sessions', id)
    count_removal()
end
