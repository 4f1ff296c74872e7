-- Have this Redis hold the heads of a store, unless it holds those of another. Stands alone. ARGV: 1 the store's id. Answers whose it is then.
local found = redis.call('HMGET', KEYS[1], 'id', 'changes')
if found[1] and found[1] ~= ARGV[1] and found[2] ~= '0' then
    return found[1]
end
redis.call('HSET', KEYS[1], 'id', ARGV[1])
for _, count in ipairs({'changes', 'epoch', 'removals', 'refused_before'}) do
    redis.call('HSETNX', KEYS[1], count, 0)
end
return ARGV[1]
