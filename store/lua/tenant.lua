-- How many sessions a tenant has, and whether a move of one of them led to a snapshot. ARGV: 6 the tenant, 7 the snapshot.
return answer('done', redis.call('ZCARD', base .. 'tenant:' .. ARGV[6]), redis.call('HEXISTS', base .. 'led:' .. ARGV[6], ARGV[7]))
