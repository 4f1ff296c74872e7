-- Whether a move of a tenant's sessions led to a snapshot. ARGV: 6 the tenant, 7 the snapshot.
return answer('done', redis.call('HEXISTS', base .. 'led:' .. ARGV[6], ARGV[7]))
