-- What every script begins with (store/redis_scripts.py puts it before each).
--
-- KEYS[1]  the hash `store` of these heads. All other keys are named after it: one hash tag holds them all, on one node of a cluster.
-- ARGV     1 the store's id, 2 how many changes the caller knows of, 3 its call, 4 which attempt of that call this is,
--          5 the epoch of its lease, or ''. From 6 on what the script itself is about.
-- Answers  a status, how many changes there were, the epoch, how many things were removed; then what the script says.
local base = string.sub(KEYS[1], 1, -6)
local known = redis.call('HMGET', KEYS[1], 'id', 'changes', 'epoch', 'removals', 'refused_before')
local call, attempt = ARGV[3], tonumber(ARGV[4])

local function answer(status, ...)
    return {status, known[2] or '0', known[3] or '0', known[4] or '0', ...}
end

if known[1] ~= ARGV[1] then
    return answer('other', known[1] or '')
end
if tonumber(known[2]) < tonumber(ARGV[2]) then
    return answer('older')
end
