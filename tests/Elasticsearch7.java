import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.Arrays;
import java.util.Collection;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.Plugin;
import org.elasticsearch.transport.Netty4Plugin;

/**
 * One node of Elasticsearch 7 from its jars, without security and the checks of its start script.
 *
 * Its data are in the folder it runs in. Arguments: the HTTP port, and the transport port.
 */
public class Elasticsearch7 {
    private static class PluggedNode extends Node {
        PluggedNode(Environment environment, Collection<Class<? extends Plugin>> plugins) {
            super(environment, plugins, true);
        }
    }

    public static void main(String[] arguments) throws Exception {
        Path home = Paths.get("data").toAbsolutePath();
        Path config = Files.createDirectories(home.resolve("config"));
        Settings settings = Settings.builder()
            .put("path.home", home)
            .put("cluster.name", "helios-test")
            .put("node.name", "helios-test")
            .put("network.host", "127.0.0.1")
            .put("http.port", arguments[0])
            .put("transport.port", arguments[1])
            .put("http.type", "netty4")
            .put("transport.type", "netty4")
            .put("discovery.type", "single-node")
            .put("cluster.routing.allocation.disk.threshold_enabled", false)
            .build();
        Node node = new PluggedNode(new Environment(settings, config), Arrays.asList(Netty4Plugin.class));
        node.start();
        Thread.currentThread().join();
    }
}
